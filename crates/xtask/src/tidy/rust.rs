//! Rules about Rust source, on its syntax tree: text in strings and comments is never mistaken for code.

use std::path::Path;

use proc_macro2::Span;
use syn::{
    Attribute, Block, Expr, ExprCall, Fields, ItemMod, ItemStruct, Lit, Signature,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use super::Finding;

const MAX_FUNCTION_LINES: usize = 70;
const MAX_STATE_FIELDS: usize = 9;
/// A struct with one of these derives mirrors something outside: a message, a file, a row, a command line. Its fields
/// are as many as that thing has; the limit is for structs that hold state.
const MIRRORS: [&str; 7] = ["Serialize", "Deserialize", "FromRow", "ToSchema", "Parser", "Args", "Template"];
/// Rows of the store, filled by `sqlx::query_as!` without any derive, end in this.
const ROW: &str = "Row";
/// What these do, we do through the kernel's own interfaces, or without a shell.
const FORBIDDEN_PROGRAMS: [&str; 14] = [
    "ip", "wg", "wg-quick", "tc", "nft", "iptables", "ss", "nsenter", "findmnt", "sysctl", "mount", "umount",
    "sh", "bash",
];

/// All rules for the file at `path`.
pub(super) fn check(path: &Path, text: &str) -> Vec<Finding> {
    let file = match syn::parse_file(text) {
        Ok(file) => file,
        Err(error) => {
            return vec![Finding::new(path, line(error.span()), format!("this is not Rust: {error}"))];
        }
    };
    let mut rules = Rules { path, in_tests: is_test_file(path), findings: Vec::new() };
    if !file.attrs.iter().any(|attribute| attribute.path().is_ident("doc")) {
        rules.report(1, "begin with `//!`: what this module is and which invariant it keeps");
    }
    rules.visit_file(&file);
    rules.findings
}

struct Rules<'a> {
    path: &'a Path,
    in_tests: bool,
    findings: Vec<Finding>,
}

impl Rules<'_> {
    fn report(&mut self, line: usize, sentence: impl Into<String>) {
        self.findings.push(Finding::new(self.path, line, sentence));
    }

    fn check_function(&mut self, signature: &Signature, body: &Block) {
        let first = line(signature.span());
        let lines = body.span().end().line + 1 - first;
        if lines > MAX_FUNCTION_LINES {
            let name = &signature.ident;
            self.report(first, format!("`{name}` has {lines} lines, at most {MAX_FUNCTION_LINES}: split it"));
        }
    }

    /// Visits what `attributes` belong to, knowing whether it exists for tests only.
    fn within(&mut self, attributes: &[Attribute], visit: impl FnOnce(&mut Self)) {
        let outside = self.in_tests;
        self.in_tests |= attributes.iter().any(is_for_tests);
        visit(self);
        self.in_tests = outside;
    }
}

impl<'ast> Visit<'ast> for Rules<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.within(&module.attrs, |rules| visit::visit_item_mod(rules, module));
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.check_function(&function.sig, &function.block);
        self.within(&function.attrs, |rules| visit::visit_item_fn(rules, function));
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.check_function(&function.sig, &function.block);
        self.within(&function.attrs, |rules| visit::visit_impl_item_fn(rules, function));
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.check_function(&function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        let Fields::Named(fields) = &item.fields else { return };
        let (name, count) = (item.ident.to_string(), fields.named.len());
        if count > MAX_STATE_FIELDS && !name.ends_with(ROW) && !item.attrs.iter().any(is_mirror) {
            self.report(
                line(item.ident.span()),
                format!(
                    "`{name}` holds {count} fields, at most {MAX_STATE_FIELDS}: group what belongs together"
                ),
            );
        }
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Some(program) = started_program(call).filter(|_| !self.in_tests) {
            let name = program.rsplit('/').next().unwrap_or(&program);
            if FORBIDDEN_PROGRAMS.contains(&name) {
                self.report(
                    line(call.span()),
                    format!("runs `{name}`: use the network crate (netlink) or an argv"),
                );
            }
        }
        visit::visit_expr_call(self, call);
    }
}

/// `"x"` in `Command::new("x")`.
fn started_program(call: &ExprCall) -> Option<String> {
    let Expr::Path(function) = call.func.as_ref() else { return None };
    let mut names = function.path.segments.iter().rev().map(|segment| segment.ident.to_string());
    if names.next()? != "new" || names.next()? != "Command" {
        return None;
    }
    match call.args.first()? {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// Out of line test modules, integration tests and what a feature `testing` is for cannot be told by their attributes, but by where
/// they are.
fn is_test_file(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "benches" || part == "tests.rs" || part == "testing.rs")
}

/// `#[cfg(test)]`, `#[test]`, `#[tokio::test]`, `#[sqlx::test(…)]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    let is_test = attribute.path().segments.last().is_some_and(|segment| segment.ident == "test");
    is_test || words(attribute, "cfg").iter().any(|word| word == "test")
}

fn is_mirror(attribute: &Attribute) -> bool {
    words(attribute, "derive").iter().any(|word| MIRRORS.contains(&word.as_str()))
}

/// The identifiers inside `#[name(…)]`; none for another attribute.
fn words(attribute: &Attribute, name: &str) -> Vec<String> {
    match attribute.meta.require_list() {
        Ok(list) if list.path.is_ident(name) => {
            list.tokens.clone().into_iter().map(|token| token.to_string()).collect()
        }
        _ => Vec::new(),
    }
}

fn line(span: Span) -> usize {
    span.start().line
}

#[cfg(test)]
mod tests;
