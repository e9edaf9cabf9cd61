//! A lab in the test's own process, whose programs can be killed one by one.

use std::{path::Path, sync::Arc};

use wisehosting_lab::{Lab, LabOptions, ports::Port};

/// Starts it on free ports.
pub(crate) async fn start_lab(state_dir: &Path) -> Lab {
    let init = Path::new(env!("CARGO_BIN_EXE_wisehosting"));
    let options = LabOptions {
        state_dir: state_dir.to_owned(),
        bin_dir: init.parent().unwrap().to_owned(),
        init: init.to_owned(),
        control_plane_port: Port::Prefer(0),
        http_port: Port::Prefer(0),
        https_port: Port::Prefer(0),
        progress: Arc::new(|_| {}),
    };
    Lab::start(options).await.unwrap()
}
