//! What can go wrong between this crate and the kernel.
//!
//! Every error names the operation and what it was done to; a missing right says so in words that a reader can
//! act on. The kernel's own reason is the source, never repeated in the message.

use std::io;

use nix::errno::Errno;

/// An operation on links, addresses, routes, namespaces or WireGuard that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The process may not change the network here (EPERM, EACCES).
    #[error("cannot {operation} {subject}: this needs root or the capability {capability}")]
    NotPermitted {
        /// What was attempted, as in "create bridge".
        operation: &'static str,
        /// The interface, address or namespace it was attempted on.
        subject: String,
        /// The kernel's name for the right that is missing.
        capability: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// This kernel cannot do it (EOPNOTSUPP), such as WireGuard on a kernel built without it.
    #[error("cannot {operation} {subject}: this kernel does not support it")]
    NotSupported {
        /// What was attempted.
        operation: &'static str,
        /// What it was attempted on.
        subject: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// No interface has this name in this namespace.
    #[error("cannot {operation} {interface}: there is no such interface")]
    NoSuchInterface {
        /// What was attempted.
        operation: &'static str,
        /// The name that was looked up.
        interface: String,
    },
    /// The name belongs to a link that is not ours to change.
    #[error(
        "cannot create WireGuard interface {interface}: a link of kind {kind} has this name; remove it or choose \
         another name"
    )]
    NameTaken {
        /// The name.
        interface: String,
        /// What has it, as the kernel calls it, or "hardware".
        kind: String,
    },
    /// An interface does not keep what was set on it: another program changes it too.
    #[error("cannot settle {interface}: something else keeps changing it")]
    Unsettled {
        /// The interface.
        interface: String,
    },
    /// Anything else that the kernel or a library refused.
    #[error("cannot {operation} {subject}")]
    Failed {
        /// What was attempted.
        operation: &'static str,
        /// What it was attempted on.
        subject: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl NetworkError {
    /// Sorts an I/O error by what the reader can do about it.
    pub(crate) fn from_io(operation: &'static str, subject: impl Into<String>, source: io::Error) -> Self {
        let subject = subject.into();
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::EACCES) => {
                Self::NotPermitted { operation, subject, capability: "CAP_NET_ADMIN", source }
            }
            Some(Errno::EOPNOTSUPP) => Self::NotSupported { operation, subject, source },
            _ => Self::Failed { operation, subject, source: source.into() },
        }
    }

    /// Sorts an error of work with namespaces, which are a right of their own.
    pub(crate) fn from_namespace(
        operation: &'static str,
        subject: impl Into<String>,
        source: io::Error,
    ) -> Self {
        match Self::from_io(operation, subject, source) {
            Self::NotPermitted { operation, subject, source, .. } => {
                Self::NotPermitted { operation, subject, capability: "CAP_SYS_ADMIN", source }
            }
            other => other,
        }
    }

    /// Sorts an error of a netlink request.
    pub(crate) fn from_netlink(
        operation: &'static str,
        subject: impl Into<String>,
        source: rtnetlink::Error,
    ) -> Self {
        match source {
            rtnetlink::Error::NetlinkError(message) if message.raw_code() == -(Errno::ENODEV as i32) => {
                Self::NoSuchInterface { operation, interface: subject.into() }
            }
            rtnetlink::Error::NetlinkError(message) => Self::from_io(operation, subject, message.to_io()),
            other => Self::Failed { operation, subject: subject.into(), source: other.into() },
        }
    }

    /// The error number that the kernel gave, if it was the kernel that refused.
    pub(crate) fn errno(&self) -> Option<Errno> {
        let code = match self {
            Self::NotPermitted { source, .. } | Self::NotSupported { source, .. } => source.raw_os_error(),
            Self::NoSuchInterface { .. } => return Some(Errno::ENODEV),
            Self::NameTaken { .. } | Self::Unsettled { .. } => return None,
            Self::Failed { source, .. } => source.downcast_ref::<io::Error>()?.raw_os_error(),
        };
        code.map(Errno::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_says_what_is_needed() {
        let error = NetworkError::from_io("create bridge", "wh0", io::Error::from(Errno::EPERM));
        assert_eq!(
            error.to_string(),
            "cannot create bridge wh0: this needs root or the capability CAP_NET_ADMIN"
        );
    }

    #[test]
    fn every_error_names_operation_and_interface() {
        for errno in [Errno::EPERM, Errno::EOPNOTSUPP, Errno::ENODEV, Errno::EEXIST] {
            let text = NetworkError::from_io("set up", "wh0", io::Error::from(errno)).to_string();
            assert!(text.starts_with("cannot set up wh0"), "{text}");
        }
    }
}
