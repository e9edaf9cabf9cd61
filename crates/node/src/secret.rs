//! Secrets: read from a file or a systemd credential, never from the configuration itself.
//!
//! The secret of setting `section.name` is the content of the file in `section.name_file`, or else of the credential
//! `section.name` (`LoadCredential=section.name:/path`). Neither the secret nor a part of it is ever in an error.

use crate::config::ConfigError;
use secrecy::SecretString;
use std::{
    env, fs,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The secret of `setting`, such as `control_plane.api_key`, without the newline at its end.
///
/// # Errors
/// There is neither a file nor a credential, it cannot be read, or it is empty; the error names the setting.
pub fn read(setting: &str, file: Option<&Path>) -> Result<SecretString, ConfigError> {
    let credentials = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    read_from(setting, file, credentials.as_deref())
}

fn read_from(
    setting: &str,
    file: Option<&Path>,
    credentials: Option<&Path>,
) -> Result<SecretString, ConfigError> {
    let credential = || credentials.map(|directory| directory.join(setting)).filter(|path| path.exists());
    let named = format!("{setting}_file");
    let Some(path) = file.map(Path::to_owned).or_else(credential) else {
        return Err(ConfigError::invalid(
            named,
            format!(
                "is not set, and there is no systemd credential {setting:?}: name the file that holds it"
            ),
        ));
    };
    let text = fs::read_to_string(&path).map(Zeroizing::new).map_err(|error| {
        ConfigError::invalid(named.clone(), format!("cannot read {}: {error}", path.display()))
    })?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.trim().is_empty() {
        return Err(ConfigError::invalid(named, format!("{} is empty", path.display())));
    }
    Ok(SecretString::from(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn a_file_wins_over_a_credential_and_loses_its_newline() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        fs::write(&file, "from file\n").unwrap();
        fs::write(directory.path().join("section.name"), "from credential").unwrap();
        let read = |file| read_from("section.name", file, Some(directory.path())).unwrap();
        assert_eq!(read(Some(file.as_path())).expose_secret(), "from file");
        assert_eq!(read(None).expose_secret(), "from credential");
    }

    #[test]
    fn an_error_names_the_setting() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let error = |file| read_from("section.name", file, None).unwrap_err().to_string();
        assert!(error(None).starts_with("section.name_file: is not set"), "{}", error(None));
        assert!(error(Some(file.as_path())).starts_with("section.name_file: cannot read"));
        fs::write(&file, "\n").unwrap();
        assert!(error(Some(file.as_path())).ends_with("key is empty"));
    }
}
