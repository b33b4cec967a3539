//! `manyhands site`: the operator's commands for sites that embed the page, and a site owner's totals.

use std::io::Write;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Subcommand;
use manyhands_protocol::manifest::Category;
use manyhands_protocol::problem::Code;
use manyhands_protocol::site::{Site, SiteToken, SiteTotals, SitesView};
use manyhands_protocol::view::InfoView;
use reqwest::Method;
use reqwest::header::CACHE_CONTROL;
use sha2::{Digest as _, Sha384};

use crate::operator::client::Client;
use crate::operator::{CommandError, Operator, print};

/// Arguments of `manyhands site`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    operator: Operator,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Register a site, or change what is registered, and print what its pages paste.
    Add {
        /// Lower-case letters, digits and hyphens.
        name: String,
        /// Origin of its pages, such as https://shop.example (may be given several times).
        #[arg(long = "origin", required = true, value_name = "ORIGIN")]
        origins: Vec<String>,
        /// Kind of jobs that may run there: research, education, public_good, commercial or demo (may be given several times).
        #[arg(long = "category", required = true, value_name = "CATEGORY", value_parser = category)]
        categories: Vec<Category>,
    },
    /// List registered sites.
    List,
    /// End a site: what runs in its pages gets no further work.
    Remove { name: String },
    /// Make a token for the site's owner, who reads its totals with it; it replaces the last one.
    Token { name: String },
    /// Show what came through a site; the token may be the site's own.
    Totals { name: String },
}

fn category(name: &str) -> Result<Category, String> {
    let known = Category::ALL.map(Category::name).join(", ");
    Category::parse(name).ok_or_else(|| format!("must be one of {known}"))
}

/// Runs one command; an error is for the user to read, and ends the process with 1.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let text = execute(&args.operator.connect()?, args.command, args.operator.json).await?;
    // A closed pipe ends the reading; what was asked for is done.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

async fn execute(client: &Client, command: Command, as_json: bool) -> Result<String, CommandError> {
    match command {
        Command::Add { name, origins, categories } => {
            let site = Site { name, origins, categories };
            let body = serde_json::to_vec(&site).expect("a site of plain values always serialises");
            // A name that is no part of a path is refused by its field, as in the body.
            let path = if site.validate().is_ok() { site.name.as_str() } else { "site" };
            let response = client.call(Method::PUT, &format!("/v1/admin/sites/{path}"), Some(("application/json", body))).await?;
            let site: Site = client.json(response).await?;
            Ok(if as_json { print::pretty(&site) } else { snippet(client.base(), &site, pinned(client).await?.as_ref()) })
        }
        Command::List => {
            let response = client.call(Method::GET, "/v1/admin/sites", None).await?;
            let view: SitesView = client.json(response).await?;
            Ok(if as_json { print::pretty(&view) } else { table(&view.sites) })
        }
        Command::Remove { name } => {
            client.call(Method::DELETE, &format!("/v1/admin/sites/{name}"), None).await?;
            Ok(if as_json { print::pretty(&serde_json::json!({ "removed": name })) } else { format!("site {name} is removed") })
        }
        Command::Token { name } => {
            let response = client.call(Method::POST, &format!("/v1/admin/sites/{name}/token"), None).await?;
            let token: SiteToken = client.json(response).await?;
            Ok(if as_json { print::pretty(&token) } else { token.token })
        }
        Command::Totals { name } => {
            let response = client.call(Method::GET, &format!("/v1/sites/{name}/totals"), None).await?;
            let totals: SiteTotals = client.json(response).await?;
            Ok(if as_json { print::pretty(&totals) } else { sums(&totals) })
        }
    }
}

/// The element of the coordinator's version.
struct Pinned {
    path: String,
    /// As an `integrity` attribute has it.
    integrity: String,
    /// Released: it never changes.
    released: bool,
}

/// None where the coordinator was built without the page.
async fn pinned(client: &Client) -> Result<Option<Pinned>, CommandError> {
    let info: InfoView = client.json(client.call(Method::GET, "/v1/info", None).await?).await?;
    let path = format!("/embed/{}/many-hands.js", info.software_version);
    let response = match client.call(Method::GET, &path, None).await {
        Ok(response) => response,
        Err(CommandError::Problem(problem)) if problem.code == Code::NotFound.as_str() => return Ok(None),
        Err(error) => return Err(error),
    };
    let cache = response.headers().get(CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let released = cache.contains("immutable");
    let element = client.bytes(response).await?;
    Ok(Some(Pinned { path, integrity: format!("sha384-{}", BASE64_STANDARD.encode(Sha384::digest(element))), released }))
}

/// What a page of the site pastes.
fn snippet(coordinator: &str, site: &Site, pinned: Option<&Pinned>) -> String {
    let name = &site.name;
    let element = format!("<many-hands site=\"{name}\"></many-hands>");
    let mut text = format!(
        "site {name} is registered; its pages paste:\n\n\
         <script type=\"module\" src=\"{coordinator}/embed/v1/many-hands.js\"></script>\n{element}"
    );
    if let Some(Pinned { path, integrity, released }) = pinned {
        text.push_str(&format!(
            "\n\nor, to pin what they load and go without fixes:\n\n\
             <script type=\"module\" src=\"{coordinator}{path}\" integrity=\"{integrity}\" crossorigin=\"anonymous\"></script>\n\
             {element}"
        ));
        if !released {
            text.push_str("\n\nThis version is not released yet: its file may change, and browsers then refuse what is pinned.");
        }
    }
    text
}

fn table(sites: &[Site]) -> String {
    let mut rows = vec![["NAME", "CATEGORIES", "ORIGINS"].map(str::to_owned)];
    rows.extend(sites.iter().map(|site| {
        let categories: Vec<_> = site.categories.iter().map(|category| category.name()).collect();
        [site.name.clone(), categories.join(" "), site.origins.join(" ")]
    }));
    print::table(&rows)
}

fn sums(totals: &SiteTotals) -> String {
    print::table(&[
        ["sessions".to_owned(), totals.sessions.to_string()],
        ["accepted".to_owned(), totals.results_accepted.to_string()],
        ["rejected".to_owned(), totals.results_rejected.to_string()],
        ["checked".to_owned(), format!("{} floating-point operations", totals.credit_flop)],
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_snippet_names_coordinator_and_site() {
        let site = Site { name: "shop".to_owned(), origins: Vec::new(), categories: Vec::new() };
        let text = snippet("https://hands.example", &site, None);
        assert!(
            text.contains("src=\"https://hands.example/embed/v1/many-hands.js\"") && text.contains("site=\"shop\""),
            "{text}"
        );
        let pinned = Pinned { path: "/embed/1.2.3/many-hands.js".to_owned(), integrity: "sha384-abc".to_owned(), released: true };
        let text = snippet("https://hands.example", &site, Some(&pinned));
        assert!(text.contains("src=\"https://hands.example/embed/1.2.3/many-hands.js\" integrity=\"sha384-abc\""), "{text}");
        assert!(!text.contains("not released"), "{text}");
        let text = snippet("https://hands.example", &site, Some(&Pinned { released: false, ..pinned }));
        assert!(text.ends_with("browsers then refuse what is pinned."), "{text}");
    }

    #[test]
    fn a_wrong_category_is_told_the_right_ones() {
        assert_eq!(category("public_good"), Ok(Category::PublicGood));
        assert!(category("fun").unwrap_err().contains("public_good"));
    }
}
