//! Sites that embed the page: who may frame it, what may run there, and what their owners may read.

use manyhands_protocol::JobId;
use manyhands_protocol::manifest::Category;
use manyhands_protocol::problem::Code;
use manyhands_protocol::site::{Site, SiteToken, SiteTotals, SitesView};
use manyhands_protocol::view::JobsView;
use manyhands_protocol::wire::LeaseResponse;
use reqwest::{Method, header};

use crate::client::{Answer, Volunteer};
use crate::world::World;

fn shop(categories: &[Category]) -> Site {
    let origins = vec!["https://shop.example".to_owned(), "http://127.0.0.1:8000".to_owned()];
    Site { name: "shop".to_owned(), origins, categories: categories.to_vec() }
}

impl World {
    async fn put_site(&self, site: &Site) -> Answer {
        let request = self.operator(Method::PUT, &format!("/sites/{}", site.name));
        let body = serde_json::to_vec(site).unwrap();
        Answer::of(request.header(header::CONTENT_TYPE, "application/json").body(body)).await
    }
}

/// The origins that may frame what is at `path`.
async fn framed_by(volunteer: &Volunteer, path: &str) -> String {
    let answer = volunteer.get(path).await;
    let policy = answer.header("content-security-policy");
    policy.split("frame-ancestors ").nth(1).unwrap().to_owned()
}

/// A session through the site, for a job or for any.
async fn through(world: &World, seed: u8, job: Option<JobId>) -> (Volunteer, Answer) {
    let mut volunteer = Volunteer::new(&world.url(), seed).await;
    let mut consent = volunteer.consent().await;
    (consent.site, consent.job) = ("shop".to_owned(), job);
    let answer = volunteer.try_open(&consent).await;
    if answer.status.is_success() {
        volunteer.token = answer.cbor::<manyhands_protocol::wire::SessionOpened>().token;
    }
    (volunteer, answer)
}

#[tokio::test]
async fn only_pages_of_a_registered_site_may_frame_the_page() {
    let world = World::start().await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    assert_eq!(framed_by(&volunteer, "/?site=shop").await, "'none'");
    world.put_site(&shop(&[Category::Demo])).await.is(201);
    assert_eq!(framed_by(&volunteer, "/?site=shop").await, "https://shop.example http://127.0.0.1:8000");
    assert_eq!(framed_by(&volunteer, "/?job=1&site=shop").await, "https://shop.example http://127.0.0.1:8000");
    // A look at it, for the coordinator's own page alone, whatever site it names.
    for path in ["/?preview=", "/?site=shop&preview=", "/?preview=&site=shop"] {
        assert_eq!(framed_by(&volunteer, path).await, "'self'", "{path}");
    }
    assert_eq!(framed_by(&volunteer, "/embed/").await, "'none'");
    // However it is written, the page reads the same name; with two of them it would take the first.
    for path in ["/?%73ite=shop", "/?site=sh%6Fp", "/?a&%73ite=%73hop"] {
        assert_eq!(framed_by(&volunteer, path).await, "https://shop.example http://127.0.0.1:8000", "{path}");
    }
    for path in ["/?%73ite=other&site=shop", "/?site=other&site=shop", "/?site=shop&site=", "/?site=shop&%73ite=shop"] {
        assert_eq!(framed_by(&volunteer, path).await, "'none'", "{path}");
    }
    for path in ["/", "/?site=", "/?site=other", "/?site=shop%20", "/?site=*", "/page/main.js"] {
        assert_eq!(framed_by(&volunteer, path).await, "'none'", "{path}");
    }
    world.put_site(&Site { origins: vec!["https://new.example".to_owned()], ..shop(&[Category::Demo]) }).await.is(200);
    assert_eq!(framed_by(&volunteer, "/?site=shop").await, "https://new.example");
    Answer::of(world.operator(Method::DELETE, "/sites/shop")).await.is(204);
    assert_eq!(framed_by(&volunteer, "/?site=shop").await, "'none'");
    world.finish().await;
}

#[tokio::test]
async fn any_page_may_where_the_operator_says_so() {
    let world = World::start_with(|config| config.embed_anywhere = true).await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    assert_eq!(framed_by(&volunteer, "/?job=1").await, "*");
    assert_eq!(framed_by(&volunteer, "/?site=other").await, "'none'");
    world.finish().await;
}

#[tokio::test]
async fn other_sites_may_load_the_element_and_nothing_else() {
    let world = World::start().await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    let version = env!("CARGO_PKG_VERSION");
    // Only what was released stays as it is.
    let is_released = include_str!("../../elements/integrity.json").contains(version);
    let versions = [("v1", "max-age=300"), (version, if is_released { "immutable" } else { "no-cache" })];
    for (version, cache) in versions {
        let element = volunteer.get(&format!("/embed/{version}/many-hands.js")).await;
        element.is(200);
        assert!(element.header("content-type").starts_with("text/javascript"));
        assert_eq!(element.header("access-control-allow-origin"), "*");
        assert_eq!(element.header("cross-origin-resource-policy"), "cross-origin");
        assert!(element.header("cache-control").contains(cache), "{}", element.header("cache-control"));
    }
    volunteer.get("/embed/9.9.9/many-hands.js").await.refused(Code::NotFound);
    let module = volunteer.get("/page/main.js").await;
    assert_eq!(module.header("access-control-allow-origin"), "");
    assert_eq!(module.header("cross-origin-resource-policy"), "same-origin");
    world.finish().await;
}

#[tokio::test]
async fn a_site_chooses_the_kinds_of_jobs() {
    let world = World::start().await;
    let job = world.product_job().await;
    let (_, unregistered) = through(&world, 1, None).await;
    unregistered.refused(Code::BadConsent);
    world.put_site(&shop(&[Category::Research])).await.is(201);
    let (_, other_kind) = through(&world, 1, Some(job)).await;
    other_kind.refused(Code::BadConsent);
    // Any job: what the site does not allow is not leased.
    let (volunteer, opened) = through(&world, 2, None).await;
    opened.is(201);
    assert!(volunteer.lease(4).await.is_empty());
    world.put_site(&shop(&[Category::Research, Category::Demo])).await.is(200);
    assert_eq!(volunteer.lease(1).await.len(), 1);
    // It is checked at every lease, not at the first alone.
    Answer::of(world.operator(Method::DELETE, "/sites/shop")).await.is(204);
    volunteer.try_lease(1, None).await.refused(Code::BadConsent);
    // Nobody else is held up.
    assert_eq!(world.join(3).await.lease(1).await.len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_consent_to_a_kind_of_jobs_is_for_that_kind_alone() {
    let world = World::start().await;
    let demo = world.product_job().await;
    let mut submission = world.product().await;
    submission.manifest.category = Category::Research;
    let research = world.create(&submission).await;
    let open = async |seed: u8, site: &str, job: Option<JobId>, category: Category| {
        let mut volunteer = Volunteer::new(&world.url(), seed).await;
        let mut consent = volunteer.consent().await;
        (consent.site, consent.job, consent.category) = (site.to_owned(), job, Some(category));
        let answer = volunteer.try_open(&consent).await;
        if answer.status.is_success() {
            volunteer.token = answer.cbor::<manyhands_protocol::wire::SessionOpened>().token;
        }
        (volunteer, answer)
    };
    open(1, "", Some(research), Category::Research).await.1.refused(Code::BadConsent);
    let (volunteer, _) = open(2, "", None, Category::Research).await;
    let leases = volunteer.lease(16).await;
    assert!(leases.len() == 4 && leases.iter().all(|lease| lease.manifest.job == research));
    assert!(volunteer.try_lease(1, Some(demo)).await.cbor::<LeaseResponse>().manifests.is_empty());
    // The next job of the kind, without a new consent.
    let next = world.create(&submission).await;
    assert!(volunteer.lease(1).await.iter().all(|lease| lease.manifest.job == next));
    assert!(open(3, "", None, Category::Education).await.0.lease(1).await.is_empty());

    // In a site's pages: what the site allows, as it is registered when a unit is leased.
    world.put_site(&shop(&[Category::Demo])).await.is(201);
    open(4, "shop", None, Category::Research).await.1.refused(Code::BadConsent);
    world.put_site(&shop(&[Category::Demo, Category::Research])).await.is(200);
    let (volunteer, opened) = open(4, "shop", None, Category::Research).await;
    opened.is(201);
    world.put_site(&shop(&[Category::Demo])).await.is(200);
    assert!(volunteer.lease(1).await.is_empty(), "neither what the site excludes, nor what nobody agreed to");
    world.put_site(&shop(&[Category::Demo, Category::Research])).await.is(200);
    assert!(volunteer.lease(1).await.iter().all(|lease| lease.manifest.job == next));
    world.finish().await;
}

#[tokio::test]
async fn the_list_of_jobs_is_the_site_s() {
    let world = World::start().await;
    world.product_job().await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    volunteer.get("/v1/jobs?site=shop").await.refused(Code::UnknownSite);
    world.put_site(&shop(&[Category::Research])).await.is(201);
    assert_eq!(volunteer.get("/v1/jobs?site=shop").await.json::<JobsView>().jobs.len(), 0);
    world.put_site(&shop(&[Category::Demo])).await.is(200);
    assert_eq!(volunteer.get("/v1/jobs?site=shop").await.json::<JobsView>().jobs.len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn totals_are_the_site_s_and_its_owner_s() {
    let mut world = World::start().await;
    world.product_job().await;
    world.put_site(&shop(&[Category::Demo])).await.is(201);
    let token: SiteToken = world.order("/sites/shop/token").await.json();
    let (volunteer, _) = through(&world, 1, None).await;
    let lease = volunteer.lease_one().await;
    let output = volunteer.product_bytes(&lease).await;
    let credit = volunteer.submit(&lease, output).await.credit_flop;
    // One that came another way does not count.
    let own = world.join(2).await;
    let lease = own.lease_one().await;
    let output = own.product_bytes(&lease).await;
    own.submit(&lease, output).await;
    world.kill_and_restart().await;
    let read = |token: &str| {
        let request = world.admin.get(format!("{}/v1/sites/shop/totals", world.url()));
        Answer::of(request.bearer_auth(token))
    };
    let expected = SiteTotals { sessions: 1, results_accepted: 1, results_rejected: 0, credit_flop: credit };
    assert!(credit > 0);
    assert_eq!(read(&token.token).await.json::<SiteTotals>(), expected);
    assert_eq!(read(&world.token).await.json::<SiteTotals>(), expected);
    for wrong in ["", "x", &volunteer.token, &token.token[1..]] {
        read(wrong).await.refused(Code::NoSiteToken);
    }
    let newer: SiteToken = world.order("/sites/shop/token").await.json();
    read(&token.token).await.refused(Code::NoSiteToken);
    assert_eq!(read(&newer.token).await.json::<SiteTotals>(), expected);
    world.finish().await;
}

#[tokio::test]
async fn wrong_sites_change_nothing() {
    let world = World::start().await;
    for site in [
        Site { name: "-".to_owned(), ..shop(&[Category::Demo]) },
        Site { origins: vec!["https://a.example; script-src *".to_owned()], ..shop(&[Category::Demo]) },
        shop(&[]),
    ] {
        assert!(world.put_site(&site).await.refused(Code::BadSite).field.is_some());
    }
    let request = world.operator(Method::PUT, "/sites/other").header(header::CONTENT_TYPE, "application/json");
    let other = Answer::of(request.body(serde_json::to_vec(&shop(&[Category::Demo])).unwrap())).await;
    assert_eq!(other.refused(Code::BadSite).field.as_deref(), Some("name"));
    let request = world.operator(Method::PUT, "/sites/shop").header(header::CONTENT_TYPE, "application/json");
    Answer::of(request.body("{}")).await.refused(Code::BadJson);
    Answer::of(world.operator(Method::DELETE, "/sites/shop")).await.refused(Code::UnknownSite);
    world.order("/sites/shop/token").await.refused(Code::UnknownSite);
    let volunteer = Volunteer::new(&world.url(), 1).await;
    for (method, path) in [
        (Method::GET, "/v1/admin/sites"),
        (Method::PUT, "/v1/admin/sites/shop"),
        (Method::DELETE, "/v1/admin/sites/shop"),
        (Method::POST, "/v1/admin/sites/shop/token"),
    ] {
        Answer::of(volunteer.call(method, path)).await.refused(Code::NoAdmin);
    }
    volunteer.get("/v1/sites/shop/totals").await.refused(Code::NoSiteToken);
    let sites: SitesView = Answer::of(world.operator(Method::GET, "/sites")).await.json();
    assert!(sites.sites.is_empty());
    world.finish().await;
}
