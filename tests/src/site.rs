//! Somebody else's site: one page, served from another origin than the coordinator's, under a strict policy of its own.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::server::Server;

/// What a page of the site `shop` pastes, with words of its own for where there are no hands.
pub fn element(coordinator: &str, attributes: &str) -> String {
    format!(
        "<script type=module src='{coordinator}/embed/v1/many-hands.js'></script>\
         <many-hands site=shop {attributes}><p id=instead>No hands here.</p></many-hands>"
    )
}

/// A page with the element, of a site that the coordinator knows; the browser gets to the coordinator by this address.
pub async fn registered(server: &Server, coordinator: &str, attributes: &str) -> Result<Site> {
    let site = Site::start(coordinator, |_| element(coordinator, attributes)).await?;
    site.register(server)?;
    Ok(site)
}

/// A running site; it ends with the runtime it was started on.
pub struct Site {
    /// Another host than 127.0.0.1 to a browser, so that storage is partitioned as it is for strangers.
    pub origin: String,
}

impl Site {
    /// Registers it as `shop`.
    pub fn register(&self, server: &Server) -> Result<()> {
        server.run(&["site", "add", "shop", "--origin", &self.origin, "--category", "demo"])?;
        Ok(())
    }

    /// Serves a page whose body is what `body` makes of its own origin, allowing scripts and frames of `coordinator` alone.
    pub async fn start(coordinator: &str, body: impl FnOnce(&str) -> String) -> Result<Site> {
        Self::with_script(coordinator, "", body).await
    }

    /// The same with a script of its own at `/script.js`.
    pub async fn with_script(coordinator: &str, script: &str, body: impl FnOnce(&str) -> String) -> Result<Site> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let origin = format!("http://localhost:{}", listener.local_addr()?.port());
        // What a page's own policy would stop is not for the coordinator to refuse in a test.
        let policy = format!(
            "default-src 'none'; script-src {coordinator} 'self'; frame-src {coordinator}; style-src 'unsafe-inline'; connect-src {coordinator}"
        );
        let page =
            format!("<!doctype html><meta charset=utf-8><title>A site</title><h1>Somebody else's site</h1>{}", body(&origin));
        let answer = |kind: &str, body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}; charset=utf-8\r\ncontent-length: {}\r\n\
                 content-security-policy: {policy}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
        };
        let (page, script) = (answer("text/html", &page), answer("text/javascript", script));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (page, script) = (page.clone(), script.clone());
                tokio::spawn(async move {
                    // A browser sends a request's head in one piece.
                    let mut head = [0; 4096];
                    if client.read(&mut head).await.is_ok_and(|read| read > 0) {
                        let answer = if head.starts_with(b"GET /script.js ") { script } else { page };
                        let _ = client.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        Ok(Site { origin })
    }
}
