//! The login with which a private repository is fetched.

use crate::{name::text_type, secret::Secret};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

const USERNAME_LEN_MAX: usize = 255;
/// What GitHub expects beside a token. GitLab, Gitea and Forgejo take any name there.
const USERNAME: &str = "x-access-token";
const PASSWORD_LEN_MAX: usize = 4_096;

/// Why a login is refused. None of its parts is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Not the name of a user.
    #[error("use 1 to 255 printable characters without a space or colon")]
    Username,
    /// Nothing that could stand in a login.
    #[error("use 1 to 4096 printable characters; a token has no spaces or line ends")]
    Password,
}

/// The name of a user, in the first part of a login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Username(String);

text_type!(Username);

impl FromStr for Username {
    type Err = LoginError;

    fn from_str(text: &str) -> Result<Self, LoginError> {
        let allowed = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if text.is_empty() || text.len() > USERNAME_LEN_MAX || !allowed {
            return Err(LoginError::Username);
        }
        Ok(Self(text.to_owned()))
    }
}

impl Default for Username {
    fn default() -> Self {
        Self(USERNAME.to_owned())
    }
}

/// A name with its password or token. It is good for the host of the repository that it was given for, and for no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Who asks.
    pub username: Username,
    /// A password or, better, a token that may read this repository only.
    pub password: Secret,
}

/// Checks that a text can be a password.
///
/// # Errors
/// It is empty, too long, or has characters that none has.
pub fn check_password(password: &Secret) -> Result<(), LoginError> {
    let text = password.expose();
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > PASSWORD_LEN_MAX || !printable {
        return Err(LoginError::Password);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_what_a_header_can_carry() {
        assert!("oauth2".parse::<Username>().is_ok());
        for bad in ["", "a b", "a:b", "a\n", "ä"] {
            assert_eq!(bad.parse::<Username>(), Err(LoginError::Username), "{bad:?}");
        }
        assert_eq!(check_password(&"ghp_a:b@c/d%".into()), Ok(()));
        for bad in ["", "a b", "a\nhost=example.org", "a\0"] {
            assert_eq!(check_password(&bad.into()), Err(LoginError::Password), "{bad:?}");
        }
    }
}
