//! The token that opens the channel: a JWT (HS256) that names the node and its role for a quarter of an hour.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use wisehosting_domain::name::Label;

use super::Role;

/// How long a token is good.
pub const LIFETIME: Duration = Duration::minutes(15);

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: Label,
    role: Role,
    iat: i64,
    exp: i64,
}

/// A token for a node, and when it ends.
///
/// # Errors
/// The token cannot be signed.
pub fn issue(
    secret: &SecretString,
    role: Role,
    name: &Label,
    now: OffsetDateTime,
) -> jsonwebtoken::errors::Result<(SecretString, OffsetDateTime)> {
    let expires_at = now + LIFETIME;
    let claims =
        Claims { sub: name.clone(), role, iat: now.unix_timestamp(), exp: expires_at.unix_timestamp() };
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    let token = encode(&Header::new(Algorithm::HS256), &claims, &key)?;
    Ok((token.into(), expires_at))
}

/// The node that a token was given to, if it is ours, for this role and still good.
#[must_use]
pub fn verify(secret: &SecretString, role: Role, token: &str, now: OffsetDateTime) -> Option<Label> {
    let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
    let mut validation = Validation::new(Algorithm::HS256);
    // The library would read the machine's clock; the time is checked below.
    validation.validate_exp = false;
    let claims = decode::<Claims>(token, &key, &validation).ok()?.claims;
    (claims.role == role && now.unix_timestamp() < claims.exp).then_some(claims.sub)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn a_token_is_good_for_its_role_and_its_time_only() {
        let (ours, other) = (SecretString::from("ours"), SecretString::from("other"));
        let name: Label = "worker-1".parse().expect("label");
        let (token, expires_at) = issue(&ours, Role::Worker, &name, NOW).expect("token");
        let token = token.expose_secret();
        assert_eq!(expires_at, NOW + LIFETIME);
        assert_eq!(verify(&ours, Role::Worker, token, NOW), Some(name));
        assert_eq!(verify(&ours, Role::Worker, token, expires_at), None, "over");
        assert_eq!(verify(&ours, Role::Edge, token, NOW), None, "another role");
        assert_eq!(verify(&other, Role::Worker, token, NOW), None, "another secret");
        assert_eq!(verify(&ours, Role::Worker, "x.y.z", NOW), None);
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        // {"alg":"none"} and claims for worker-1 until 2100.
        let token = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.\
                     eyJzdWIiOiJ3b3JrZXItMSIsInJvbGUiOiJ3b3JrZXIiLCJpYXQiOjAsImV4cCI6NDEwMjQ0NDgwMH0.";
        assert_eq!(verify(&"ours".into(), Role::Worker, token, NOW), None);
    }
}
