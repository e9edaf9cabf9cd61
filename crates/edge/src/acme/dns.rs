//! The addresses of a name as one DNS server says them, rather than as this host looks names up: its own view may be another
//! than the world's, by a line in `/etc/hosts` or by the DNS of its site.

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RecordType,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use wisehosting_domain::name::Hostname;

/// All of both families, behind aliases too; none if there is no such name.
pub(super) async fn lookup(server: SocketAddr, host: &Hostname) -> io::Result<Vec<IpAddr>> {
    let looked_up = async {
        let resolver = resolver(server)?;
        let (ipv4, ipv6) = tokio::try_join!(
            addresses(&resolver, host, RecordType::A),
            addresses(&resolver, host, RecordType::AAAA)
        )?;
        Ok([ipv4, ipv6].concat())
    };
    let explain = |error: NetError| io::Error::other(format!("the DNS server {server}: {error}"));
    looked_up.await.map_err(explain)
}

/// Made anew for each name, so that nothing is remembered: an operator who has just changed a record is not told of the old one.
fn resolver(server: SocketAddr) -> Result<TokioResolver, NetError> {
    let mut asked = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut asked.connections {
        connection.port = server.port();
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![asked]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().use_hosts_file = ResolveHosts::Never;
    builder.build()
}

async fn addresses(
    resolver: &TokioResolver,
    host: &Hostname,
    family: RecordType,
) -> Result<Vec<IpAddr>, NetError> {
    // With a dot at the end it is the whole name, whatever domain this host is in.
    match resolver.lookup(format!("{host}."), family).await {
        Ok(found) => Ok(found.answers().iter().filter_map(|record| record.data.ip_addr()).collect()),
        Err(error) if error.is_no_records_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::{
        op::{Message, ResponseCode},
        rr::{
            Name, RData, Record,
            rdata::{A, CNAME},
        },
    };
    use tokio::net::UdpSocket;

    /// Answers for each name as its first label says.
    async fn server() -> SocketAddr {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut packet).await.unwrap();
                let answer = answer(Message::from_vec(&packet[..length]).unwrap());
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        address
    }

    fn answer(question: Message) -> Message {
        let query = question.queries[0].clone();
        let name = query.name().clone();
        let mut answer = question.into_response();
        match name.to_ascii().split_once('.').unwrap().0 {
            "alias" if query.query_type() == RecordType::A => {
                let target = Name::from_ascii("target.example.org.").unwrap();
                let alias = Record::from_rdata(name, 60, RData::CNAME(CNAME(target.clone())));
                let addresses = [1, 2].map(|last| {
                    Record::from_rdata(target.clone(), 60, RData::A(A([192, 0, 2, last].into())))
                });
                answer.add_answer(alias).add_answers(addresses);
            }
            "alias" => {}
            "nowhere" => answer.metadata.response_code = ResponseCode::NXDomain,
            _ => answer.metadata.response_code = ResponseCode::ServFail,
        }
        answer
    }

    #[tokio::test]
    async fn one_server_says_where_a_name_leads() {
        let server = server().await;
        let lookup = async |name: &str| lookup(server, &name.parse().unwrap()).await;
        let mut found = lookup("alias.example.org").await.unwrap();
        found.sort_unstable();
        assert_eq!(found, ["192.0.2.1", "192.0.2.2"].map(|address| address.parse::<IpAddr>().unwrap()));
        assert_eq!(lookup("nowhere.example.org").await.unwrap(), [] as [IpAddr; 0]);
        let error = lookup("broken.example.org").await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("the DNS server {server}: ")), "{error}");
    }
}
