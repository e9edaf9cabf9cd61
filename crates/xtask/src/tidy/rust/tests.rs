//! Each rule on the smallest source that breaks it, and on one that just does not.

use super::*;

/// The findings for `text` after a module comment, as `line: sentence`.
fn findings(path: &str, text: &str) -> Vec<String> {
    let findings = check(Path::new(path), &format!("//! A module.\n{text}"));
    findings.into_iter().map(|finding| format!("{}: {}", finding.line, finding.sentence)).collect()
}

fn function_of(lines: usize) -> String {
    format!("/// Not counted.\n#[inline]\nfn long() {{\n{}}}\n", "step();\n".repeat(lines - 2))
}

fn struct_of(fields: usize, attribute: &str, name: &str) -> String {
    let fields: String = (0..fields).map(|number| format!("field_{number}: u8,")).collect();
    format!("{attribute} struct {name} {{ {fields} }}")
}

#[test]
fn a_module_says_what_it_is() {
    let without = check(Path::new("crates/a/src/lib.rs"), "// A comment.\nfn f() {}\n");
    assert_eq!(without.len(), 1);
    assert_eq!((without[0].line, without[0].sentence.contains("//!")), (1, true));
    assert_eq!(findings("crates/a/src/lib.rs", "fn f() {}"), [""; 0]);
}

#[test]
fn a_function_is_counted_from_its_signature_to_its_brace() {
    assert_eq!(findings("a.rs", &function_of(70)), [""; 0]);
    assert_eq!(findings("a.rs", &function_of(71)), ["4: `long` has 71 lines, at most 70: split it"]);
    let method = format!("struct S;\nimpl S {{\n{}}}", function_of(71));
    assert_eq!(findings("a.rs", &method), ["6: `long` has 71 lines, at most 70: split it"]);
}

#[test]
fn a_struct_that_holds_state_stays_small() {
    assert_eq!(findings("a.rs", &struct_of(9, "", "Hub")), [""; 0]);
    let large = findings("a.rs", &struct_of(10, "#[derive(Debug)]", "Hub"));
    assert_eq!(large, ["2: `Hub` holds 10 fields, at most 9: group what belongs together"]);
}

#[test]
fn a_struct_that_mirrors_something_outside_may_be_large() {
    assert_eq!(findings("a.rs", &struct_of(10, "#[derive(Debug, Deserialize)]", "Settings")), [""; 0]);
    assert_eq!(findings("a.rs", &struct_of(10, "#[derive(utoipa::ToSchema)]", "App")), [""; 0]);
    assert_eq!(findings("a.rs", &struct_of(10, "", "AppRow")), [""; 0]);
}

#[test]
fn programs_that_the_kernel_or_an_argv_replaces_are_not_run() {
    for call in ["Command::new(\"ip\")", "std::process::Command::new(\"/usr/bin/ip\")"] {
        let found = findings("crates/a/src/lib.rs", &format!("fn f() {{ {call}.arg(\"link\"); }}"));
        assert_eq!(found, ["2: runs `ip`: use the network crate (netlink) or an argv"]);
    }
    assert_eq!(findings("crates/a/src/lib.rs", "fn f() { Command::new(\"git\"); }"), [""; 0]);
    assert_eq!(findings("crates/a/src/lib.rs", "fn f() { \"Command::new(\\\"ip\\\")\"; }"), [""; 0]);
}

#[test]
fn tests_may_run_what_they_like() {
    let call = "Command::new(\"ip\");";
    for test in [
        format!("#[cfg(test)] mod tests {{ fn f() {{ {call} }} }}"),
        format!("#[test] fn f() {{ {call} }}"),
        format!("#[tokio::test] async fn f() {{ {call} }}"),
    ] {
        assert_eq!(findings("crates/a/src/lib.rs", &test), [""; 0]);
    }
    for path in ["crates/a/tests/links.rs", "crates/a/src/testing.rs"] {
        assert_eq!(findings(path, &format!("fn f() {{ {call} }}")), [""; 0], "{path}");
    }
}
