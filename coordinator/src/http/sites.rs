//! Sites that embed the page: the operator's calls, and the totals that a site's owner reads.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use manyhands_protocol::limits;
use manyhands_protocol::problem::Code;
use manyhands_protocol::site::{Site, SiteToken, SiteTotals, SitesView, is_name};

use super::{Checked, Failure, Shared, auth, body};
use crate::keys;

/// The name in the path, refused before the store hears of it.
fn named(name: &str) -> Result<&str, Failure> {
    if is_name(name) { Ok(name) } else { Err(Failure::new(Code::UnknownSite, "no site has such a name")) }
}

/// `GET /v1/admin/sites`.
pub async fn list(State(service): Shared, headers: HeaderMap) -> Result<Json<SitesView>, Failure> {
    auth::admin(&service, &headers)?;
    Ok(Json(SitesView { sites: service.store.sites().await? }))
}

/// `PUT /v1/admin/sites/{name}`.
pub async fn put(
    State(service): Shared,
    Checked(Path(name)): Checked<Path<String>>,
    headers: HeaderMap,
    request: Body,
) -> Result<Response, Failure> {
    auth::admin(&service, &headers)?;
    let bytes = body::read(&headers, request, body::JSON, limits::CBOR_BODY_BYTES_MAX).await?;
    let site: Site = serde_json::from_slice(&bytes).map_err(|e| Failure::new(Code::BadJson, e.to_string()))?;
    site.validate().map_err(|e| Failure::new(Code::BadSite, e.reason).with_field(e.field))?;
    if site.name != name {
        return Err(Failure::new(Code::BadSite, format!("the path says {name}")).with_field("name"));
    }
    let new = service.store.put_site(site.clone()).await?;
    Ok((if new { StatusCode::CREATED } else { StatusCode::OK }, Json(site)).into_response())
}

/// `DELETE /v1/admin/sites/{name}`.
pub async fn remove(
    State(service): Shared,
    Checked(Path(name)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    auth::admin(&service, &headers)?;
    match service.store.remove_site(named(&name)?).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Failure::new(Code::UnknownSite, format!("no site {name}"))),
    }
}

/// `POST /v1/admin/sites/{name}/token`.
pub async fn token(
    State(service): Shared,
    Checked(Path(name)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Json<SiteToken>, Failure> {
    auth::admin(&service, &headers)?;
    let token = hex::encode(keys::random32()?);
    service.store.set_site_token(named(&name)?, keys::sha256(token.as_bytes())).await?;
    Ok(Json(SiteToken { token }))
}

/// `GET /v1/sites/{name}/totals`, for the operator or with the site's token.
pub async fn totals(
    State(service): Shared,
    Checked(Path(name)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Json<SiteTotals>, Failure> {
    let name = named(&name)?;
    let owner = match auth::bearer(&headers) {
        Some(token) => service.store.has_site_token(name, keys::sha256(token.as_bytes())).await?,
        None => false,
    };
    if !owner && !auth::is_admin(&service, &headers) {
        return Err(Failure::new(Code::NoSiteToken, format!("this call needs a token of site {name}")));
    }
    Ok(Json(service.store.site_totals(name).await?))
}
