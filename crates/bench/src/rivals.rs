//! The established reverse proxies, each with a configuration that does what our ingress does and no more: one host
//! name, kept-alive connections to the upstream, both cores, no access log.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::process::Process;

/// Where a proxy listens and what it serves.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// Folder for its files.
    pub folder: &'a Path,
    /// Plain HTTP.
    pub http: SocketAddr,
    /// With TLS.
    pub https: SocketAddr,
    /// The only upstream.
    pub upstream: SocketAddr,
    /// The only host name.
    pub host: &'a str,
    /// Certificate and key of the host name, in one PEM file and in two.
    pub certificate: &'a Certificate,
}

/// The files of one certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Both, as HAProxy wants them.
    pub both: PathBuf,
}

/// A static page of 1 KiB, served by nginx with one worker: the upstream of every proxy.
///
/// # Errors
/// nginx is missing or does not start.
pub fn upstream(folder: &Path, listen: SocketAddr) -> anyhow::Result<Process> {
    let body = "x".repeat(1024);
    let server = format!(
        "server {{ listen {listen}; location / {{ default_type text/plain; return 200 {body}; }} keepalive_requests 100000000; }}"
    );
    start_nginx(&folder.join("upstream"), 1, &server, listen)
}

/// nginx as a proxy.
///
/// # Errors
/// It is missing or does not start.
pub fn nginx(setup: &Setup<'_>) -> anyhow::Result<Process> {
    let Setup { http, https, upstream, host, certificate, .. } = setup;
    let servers = format!(
        "upstream app {{ server {upstream}; keepalive 128; keepalive_requests 100000000; }}
         server {{
           listen {http}; listen {https} ssl http2; server_name {host}; keepalive_requests 100000000;
           ssl_certificate {}; ssl_certificate_key {};
           location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";
             proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
             proxy_set_header X-Forwarded-Proto $scheme; }}
         }}",
        certificate.certificate.display(),
        certificate.key.display(),
    );
    start_nginx(&setup.folder.join("nginx"), 2, &servers, *http)
}

fn start_nginx(folder: &Path, workers: u32, servers: &str, listen: SocketAddr) -> anyhow::Result<Process> {
    fs::create_dir_all(folder)?;
    let at = folder.display();
    let text = format!(
        "daemon off; worker_processes {workers}; pid {at}/pid; error_log {at}/error.log;
         events {{ worker_connections 4096; }}
         http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
           fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
           {servers} }}"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&file).arg("-e").arg(folder.join("error.log"));
    Process::listening(command, listen)
}

/// HAProxy.
///
/// # Errors
/// It is missing or does not start.
pub fn haproxy(setup: &Setup<'_>) -> anyhow::Result<Process> {
    let Setup { http, https, upstream, host, certificate, .. } = setup;
    let text = format!(
        "global
  nbthread 2
  maxconn 8192
defaults
  mode http
  option forwardfor
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend web
  bind {http}
  bind {https} ssl crt {} alpn h2,http/1.1
  use_backend app if {{ hdr(host) -i {host} }}
backend app
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  server one {upstream}
",
        certificate.both.display()
    );
    let file = setup.folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-q").arg("-f").arg(&file);
    Process::listening(command, *http)
}

/// Caddy.
///
/// # Errors
/// It is missing or does not start.
pub fn caddy(setup: &Setup<'_>) -> anyhow::Result<Process> {
    let Setup { http, https, upstream, host, certificate, .. } = setup;
    let text = format!(
        "{{
  admin off
  auto_https off
}}
http://{host}:{} {{
  bind 127.0.0.1
  reverse_proxy {upstream}
}}
https://{host}:{} {{
  bind 127.0.0.1
  tls {} {}
  reverse_proxy {upstream}
}}
",
        http.port(),
        https.port(),
        certificate.certificate.display(),
        certificate.key.display()
    );
    let file = setup.folder.join("Caddyfile");
    fs::write(&file, text)?;
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
    command.env("GOMAXPROCS", "2");
    command.envs(["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(|name| (name, setup.folder)));
    command.stderr(fs::File::create(setup.folder.join("caddy.log"))?);
    Process::listening(command, *http)
}

/// Traefik, which no package of Debian's has: `./dev` builds it.
#[must_use]
pub fn traefik_program() -> Option<PathBuf> {
    std::env::var_os("WISEHOSTING_TRAEFIK").map(PathBuf::from)
}

/// Traefik, with its file provider.
///
/// # Errors
/// It is missing or does not start.
pub fn traefik(setup: &Setup<'_>) -> anyhow::Result<Process> {
    let Setup { folder, http, https, upstream, host, certificate } = setup;
    let dynamic = format!(
        "http:
  routers:
    http: {{ rule: \"Host(`{host}`)\", service: app, entryPoints: [web] }}
    https: {{ rule: \"Host(`{host}`)\", service: app, entryPoints: [websecure], tls: {{}} }}
  services:
    app: {{ loadBalancer: {{ servers: [{{ url: \"http://{upstream}\" }}] }} }}
tls:
  certificates: [{{ certFile: \"{}\", keyFile: \"{}\" }}]
",
        certificate.certificate.display(),
        certificate.key.display()
    );
    let file = folder.join("dynamic.yml");
    fs::write(&file, dynamic)?;
    let doors =
        format!("entryPoints:\n  web: {{ address: \"{http}\" }}\n  websecure: {{ address: \"{https}\" }}\n");
    start_traefik(folder, &doors, &format!("file: {{ filename: \"{}\" }}", file.display()), *http)
}

/// Traefik with these entrypoints and this provider, whose changes it takes within 100 ms.
///
/// # Errors
/// It is missing or does not start.
pub fn start_traefik(
    folder: &Path,
    doors: &str,
    provider: &str,
    listens: SocketAddr,
) -> anyhow::Result<Process> {
    let program = traefik_program().context("WISEHOSTING_TRAEFIK names no Traefik")?;
    let text = format!(
        "global: {{ checkNewVersion: false, sendAnonymousUsage: false }}\nlog: {{ level: ERROR }}\n{doors}\
         providers: {{ providersThrottleDuration: 100ms, {provider} }}\n"
    );
    let file = folder.join("traefik.yml");
    fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.arg(format!("--configFile={}", file.display())).env("GOMAXPROCS", "2");
    Process::listening(command, listens)
}
