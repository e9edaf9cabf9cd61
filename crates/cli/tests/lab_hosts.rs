//! Hosts of the lab: cut off from the machine, and gone with whoever started them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::{Path, PathBuf};

use tokio::process::Command;
use wisehosting_lab::{Host, init::HostSpec};

/// A host with a folder and control groups of its own.
fn spec(directory: &Path, test: &str) -> HostSpec {
    HostSpec {
        name: "alpha".to_owned(),
        directory: directory.to_owned(),
        cgroup: PathBuf::from(format!("wisehosting-test-{}-{test}", std::process::id())),
        nameserver: Some(std::net::Ipv4Addr::new(10, 0, 2, 3)),
    }
}

fn start(spec: HostSpec) -> Host {
    Host::start(spec, Path::new(env!("CARGO_BIN_EXE_wisehosting"))).expect("tests of the lab run as root")
}

/// What a shell script prints inside.
async fn says(host: &Host, script: &str) -> String {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    let output = host.output(command).await.unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The directories of a control group, in whichever hierarchies the machine has.
fn control_groups_of(cgroup: &Path) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let split = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    split.chain([root.to_owned()]).map(|root| root.join(cgroup)).filter(|path| path.exists()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_sees_only_itself() {
    let directory = tempfile::tempdir().unwrap();
    let host = start(spec(directory.path(), "sees"));
    assert_eq!(says(&host, "hostname").await, "alpha");
    assert_eq!(says(&host, "set -- /proc/[0-9]*; echo $#").await, "2", "process 1 and the shell");
    assert_eq!(says(&host, "ls /sys/class/net").await, "lo");
    assert_eq!(says(&host, "cat /etc/resolv.conf").await, "nameserver 10.0.2.3");
    assert_eq!(says(&host, "ls /run").await, "lock");
    let own_groups = "while IFS=: read -r _ name path; do \
                      [ \"$name\" = '' ] || [ \"$path\" = / ] || echo \"$name $path\"; done < /proc/self/cgroup";
    assert_eq!(says(&host, own_groups).await, "", "a host is the root of its own control groups");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_takes_its_processes_along() {
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(directory.path(), "stops");
    let cgroup = spec.cgroup.clone();
    let host = start(spec);
    assert!(!control_groups_of(&cgroup).is_empty());
    let mut sleep = Command::new("/bin/sleep");
    sleep.arg("1000").kill_on_drop(true);
    let mut sleeping = host.spawn(sleep).unwrap();
    let orphan = says(&host, "sleep 1000 >/dev/null 2>&1 & cat /proc/sys/kernel/hostname").await;
    assert_eq!(orphan, "alpha");
    let init = host.init_pid();
    host.stop().await;
    assert!(!Path::new(&format!("/proc/{init}")).exists(), "process 1 is gone, and with it the namespaces");
    assert_eq!(control_groups_of(&cgroup), Vec::<PathBuf>::new());
    // The host may have reaped it before us: then there is nothing left to wait for.
    assert!(sleeping.wait().await.map_or(true, |status| !status.success()));
}
