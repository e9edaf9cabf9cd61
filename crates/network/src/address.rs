//! Addresses of links.
//!
//! Adding one that is there and removing one that is not are both no error: what matters is the state afterwards.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

use crate::{Netlink, NetworkError};

impl Netlink {
    /// Gives a link an address; the prefix becomes a route to that link once it is up.
    ///
    /// # Errors
    /// `NoSuchInterface`, `NotPermitted`.
    pub async fn add_address(&self, name: &str, address: IpNet) -> Result<(), NetworkError> {
        let index = self.index("add an address to", name)?;
        let request = self.handle.address().add(index, address.addr(), address.prefix_len()).replace();
        request.execute().await.map_err(|error| NetworkError::from_netlink("add an address to", name, error))
    }

    /// Takes an address from a link.
    ///
    /// # Errors
    /// `NoSuchInterface`, `NotPermitted`.
    pub async fn delete_address(&self, name: &str, address: IpNet) -> Result<(), NetworkError> {
        for message in self.address_messages(name).await? {
            if ip_net(&message) == Some(address) {
                self.delete_address_message(name, message).await?;
            }
        }
        Ok(())
    }

    /// The addresses of a link, without the IPv6 link-local ones that the kernel makes by itself.
    ///
    /// # Errors
    /// `NoSuchInterface`.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpNet>, NetworkError> {
        let messages = self.address_messages(name).await?;
        Ok(messages.iter().filter_map(ip_net).filter(|net| !is_link_local(net.addr())).collect())
    }

    async fn address_messages(&self, name: &str) -> Result<Vec<AddressMessage>, NetworkError> {
        let index = self.index("read the addresses of", name)?;
        let answers = self.handle.address().get().set_link_index_filter(index).execute();
        answers
            .try_collect()
            .await
            .map_err(|error| NetworkError::from_netlink("read the addresses of", name, error))
    }

    async fn delete_address_message(&self, name: &str, message: AddressMessage) -> Result<(), NetworkError> {
        let Err(error) = self.handle.address().del(message).execute().await else { return Ok(()) };
        let error = NetworkError::from_netlink("delete an address of", name, error);
        if error.errno() == Some(Errno::EADDRNOTAVAIL) { Ok(()) } else { Err(error) }
    }
}

/// The local address and prefix of a message; on point-to-point links `Address` is the other side's.
fn ip_net(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
