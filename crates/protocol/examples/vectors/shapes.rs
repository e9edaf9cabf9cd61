//! What every payload is made of, learned from the decoder itself: which fields it names when it is given one that it does
//! not know, which of them may be left out, which values it takes. So nothing that it takes is missing here.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use wisehosting_protocol::{
    VERSION,
    message::{AgentMessage, HubMessage, Message},
};

use crate::generator::Payloads;

/// A payload's fields: what each takes, by its name. `a.b` is a field of the object `a`, `a[]` one of a list's items,
/// `a.*` what an object has by names that are data, `a(v).b` a field that `a` has where its other field says `v`.
pub(crate) type Shape = BTreeMap<String, String>;

/// The version of the protocol, and the shapes of all payloads by direction and type.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shapes {
    pub(crate) version: u32,
    pub(crate) agent: BTreeMap<String, Shape>,
    pub(crate) hub: BTreeMap<String, Shape>,
}

/// A change to an example (as JSON Patch has it), and what a receiver makes of the payload then.
#[derive(Serialize)]
pub(crate) struct Change {
    from: &'static str,
    #[serde(rename = "type")]
    kind: String,
    example: usize,
    op: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    outcome: &'static str,
}

/// The shapes that the examples show.
///
/// # Panics
/// There is a field, or a kind of object, that no example shows; or the decoder keeps no order: it takes an unknown field,
/// or tells a missing field from null.
pub(crate) fn shapes(payloads: &Payloads) -> Shapes {
    let of = |all: &BTreeMap<String, Vec<Box<RawValue>>>, decoder: Decoder| {
        let shapes = all.iter().map(|(kind, examples)| (kind.clone(), shape(decoder, kind, examples)));
        shapes.collect()
    };
    Shapes {
        version: VERSION,
        agent: of(&payloads.agent, refusal::<AgentMessage>),
        hub: of(&payloads.hub, refusal::<HubMessage>),
    }
}

fn shape(decoder: Decoder, kind: &str, examples: &[Box<RawValue>]) -> Shape {
    let mut shape = Shape::new();
    let mut missing = BTreeSet::new();
    for found in examples.iter().map(|example| explore(decoder, kind, example)) {
        for Field { name, takes, .. } in found.fields {
            let Some(takes) = takes else {
                missing.insert(name);
                continue;
            };
            let before = shape.insert(name.clone(), takes.clone());
            assert!(before.is_none_or(|before| before == takes), "{kind}: {name} is not always {takes}");
        }
        missing.extend(found.variants);
        shape.extend(found.shown.into_iter().map(|variant| (variant, String::new())));
    }
    missing.retain(|name| !shape.contains_key(name));
    assert!(missing.is_empty(), "vectors/payloads.json: no example of {kind} has {missing:?}");
    shape.retain(|_, takes| !takes.is_empty());
    shape
}

/// Each field of each type as it is not taken, and as it is taken though it is not there.
pub(crate) fn changes(payloads: &Payloads) -> Vec<Change> {
    let mut changes = Vec::new();
    for (from, all, decoder) in [
        ("agent", &payloads.agent, refusal::<AgentMessage> as Decoder),
        ("hub", &payloads.hub, refusal::<HubMessage>),
    ] {
        for (kind, examples) in all {
            let mut done = BTreeSet::new();
            for (example, payload) in examples.iter().enumerate() {
                let mut change = |op, path: String, value, is_taken| {
                    let outcome = if is_taken { "accepted" } else { "payload" };
                    changes.push(Change { from, kind: kind.clone(), example, op, path, value, outcome });
                };
                let found = explore(decoder, kind, payload);
                for (name, pointer) in found.objects {
                    if done.insert(name) {
                        change("add", format!("{pointer}/extra"), Some(Value::Null), false);
                    }
                }
                for field in found.fields {
                    let Some(value) = field.value else { continue };
                    if field.takes.is_some() && done.insert(field.name) {
                        change("remove", field.pointer.clone(), None, field.is_optional);
                        change("replace", field.pointer.clone(), Some(Value::Null), field.is_optional);
                        change("replace", field.pointer, Some(other_type(&value)), false);
                    }
                }
            }
        }
    }
    changes
}

fn other_type(value: &Value) -> Value {
    match value {
        Value::Object(_) => json!([]),
        Value::Array(_) => json!({}),
        Value::String(_) => json!(1),
        _ => json!("1"),
    }
}

/// Why a direction's decoder does not take a payload of a type; none if it does.
type Decoder = fn(&str, &Value) -> Option<String>;

fn refusal<M: Message>(kind: &str, payload: &Value) -> Option<String> {
    let error = M::decode(kind, &payload.to_string()).err()?;
    Some(std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string))
}

/// What one example shows.
#[derive(Default)]
struct Found {
    fields: Vec<Field>,
    /// Objects with fields of their own: name and pointer.
    objects: Vec<(String, String)>,
    /// The kinds of object that there are, and those that the example has.
    variants: Vec<String>,
    shown: Vec<String>,
}

struct Field {
    name: String,
    pointer: String,
    value: Option<Value>,
    /// None if the example does not show it.
    takes: Option<String>,
    is_optional: bool,
}

fn explore(decoder: Decoder, kind: &str, example: &RawValue) -> Found {
    let payload: Value = serde_json::from_str(example.get()).expect("JSON");
    let explorer = Explorer { decoder, kind, payload: &payload };
    assert_eq!(decoder(kind, &payload), None, "{kind}: an example is not taken");
    let mut found = Found::default();
    explorer.walk(&mut found, "", String::new(), &payload);
    found
}

struct Explorer<'a> {
    decoder: Decoder,
    kind: &'a str,
    payload: &'a Value,
}

impl Explorer<'_> {
    fn walk(&self, found: &mut Found, name: &str, pointer: String, object: &Value) {
        let known = self.known_fields(&pointer).unwrap_or_else(|| panic!("{}: {name}", self.kind));
        let fields = object.as_object().expect("an object");
        // A field that says of which kind the object is, is not one that the kind has.
        let tag = fields.keys().find(|field| !known.contains(*field));
        let variant = |of: &str| format!("{name}({of})");
        let inner = tag.map_or(name.to_owned(), |tag| variant(fields[tag].as_str().expect("a kind")));
        if let Some(tag) = tag {
            found
                .variants
                .extend(self.known_values(&format!("{pointer}/{tag}")).iter().map(|of| variant(of)));
            found.shown.push(inner.clone());
        }
        for field in known.iter().chain(tag) {
            let prefix = if Some(field) == tag { name } else { &inner };
            let name = if prefix.is_empty() { field.clone() } else { format!("{prefix}.{field}") };
            self.look_at(found, name, format!("{pointer}/{field}"), fields.get(field));
        }
        found.objects.push((inner, pointer));
    }

    fn look_at(&self, found: &mut Found, name: String, pointer: String, value: Option<&Value>) {
        let is_optional = self.changed(&pointer, None).is_none();
        let takes_null = self.changed(&pointer, Some(Value::Null)).is_none();
        assert_eq!(is_optional, takes_null, "{}: {name} may be null, or missing, but not both", self.kind);
        let or_null = if is_optional { " or null" } else { "" };
        let takes = value.and_then(|value| self.takes(&pointer, value)).map(|takes| takes + or_null);
        match value {
            Some(Value::Object(items)) if self.known_fields(&pointer).is_none() => {
                for (key, item) in items.iter().filter(|(_, item)| item.is_object()) {
                    self.walk(found, &format!("{name}.*"), format!("{pointer}/{key}"), item);
                }
            }
            Some(object @ Value::Object(_)) => self.walk(found, &name, pointer.clone(), object),
            Some(Value::Array(items)) => {
                for (n, item) in items.iter().enumerate().filter(|(_, item)| item.is_object()) {
                    self.walk(found, &format!("{name}[]"), format!("{pointer}/{n}"), item);
                }
            }
            _ => {}
        }
        found.fields.push(Field { name, pointer, value: value.cloned(), takes, is_optional });
    }

    /// What is taken in the place of a value; none if it does not show.
    fn takes(&self, pointer: &str, value: &Value) -> Option<String> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(_) => "boolean".to_owned(),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => match self.known_values(pointer).as_slice() {
                [] => "text".to_owned(),
                [others @ .., last] if !others.is_empty() => format!("`{}` or `{last}`", others.join("`, `")),
                [only, ..] => format!("`{only}`"),
            },
            Value::Array(items) => {
                format!("list of {}s", self.takes(&format!("{pointer}/0"), items.first()?)?)
            }
            Value::Object(_) if self.known_fields(pointer).is_some() => "object".to_owned(),
            Value::Object(items) => {
                let (key, item) = items.iter().next()?;
                format!("{}s by name", self.takes(&format!("{pointer}/{key}"), item)?)
            }
        })
    }

    /// The fields that an object may have beside the one that says of which kind it is; none if their names are data.
    fn known_fields(&self, pointer: &str) -> Option<Vec<String>> {
        let refusal = self.changed(&format!("{pointer}/extra"), Some(Value::Null));
        let refusal = refusal.unwrap_or_else(|| panic!("{}: {pointer}/extra is taken", self.kind));
        refusal.strip_prefix("unknown field `extra`").map(quoted)
    }

    /// The texts that are taken, if they are few.
    fn known_values(&self, pointer: &str) -> Vec<String> {
        let refusal = self.changed(pointer, Some(json!("?")));
        let names =
            refusal.as_deref().and_then(|refusal| refusal.strip_prefix("unknown variant `?`")).map(quoted);
        let mut names = names.unwrap_or_default();
        names.retain(|name| {
            let refusal = self.changed(pointer, Some(json!(name)));
            refusal.is_none_or(|refusal| !refusal.starts_with("invalid value"))
        });
        names
    }

    /// What the decoder says if the value there is another one, or missing.
    fn changed(&self, pointer: &str, value: Option<Value>) -> Option<String> {
        let (object, field) = pointer.rsplit_once('/').expect("a field");
        let mut payload = self.payload.clone();
        match payload.pointer_mut(object).expect("it is there") {
            Value::Object(fields) => {
                fields.remove(field);
                fields.extend(value.map(|value| (field.to_owned(), value)));
            }
            Value::Array(items) => items[field.parse::<usize>().expect("a place")] = value.expect("an item"),
            _ => panic!("{pointer} is no field"),
        }
        (self.decoder)(self.kind, &payload)
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
