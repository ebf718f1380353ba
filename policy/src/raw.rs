//! The file as it is written: every value with its place, and nothing understood yet.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// All of it.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub default: Spanned<String>,
    #[serde(default, rename = "rule")]
    pub rules: Vec<Spanned<Rule>>,
    #[serde(default, rename = "domain")]
    pub domains: BTreeMap<Spanned<String>, Spanned<Domain>>,
    #[serde(default, rename = "service")]
    pub services: BTreeMap<Spanned<String>, Spanned<Service>>,
    #[serde(default)]
    pub quotas: Quotas,
}

/// `[quotas]`.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    pub sessions: Option<Quota>,
    pub workers: Option<Quota>,
    pub segment_bytes: Option<Quota>,
    pub descriptors: Option<Quota>,
    pub routes: Option<Quota>,
    pub held_keys: Option<Quota>,
    pub declared_keys: Option<Quota>,
    pub waiting_calls: Option<Quota>,
    pub worker_reserve: Option<Spanned<u64>>,
}

/// One of them.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    pub pool: Option<Spanned<u64>>,
    pub process: Option<Spanned<u64>>,
}

/// A `[[rule]]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub allow: Option<Spanned<List>>,
    pub deny: Option<Spanned<List>>,
    pub user: Option<Spanned<List>>,
    pub group: Option<Spanned<List>>,
    pub service: Option<Spanned<List>>,
    pub operation: Option<Spanned<List>>,
    pub keys: Option<Spanned<List>>,
}

/// A `[domain.LABEL]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    pub user: Spanned<List>,
}

/// A `[service.NAME]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub policy: Option<Spanned<String>>,
    pub unheld: Option<Spanned<String>>,
}

/// One value, or a list of them; each with its place in the file, where it is one of a list.
pub struct List(pub Vec<(Option<usize>, Atom)>);

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Atom {
    Text(String),
    Number(i64),
    Range { first: Option<i64>, last: Option<i64> },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    first: Option<i64>,
    last: Option<i64>,
}

struct AtomVisitor;

impl<'de> Visitor<'de> for AtomVisitor {
    type Value = Atom;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a text, a whole number, or { first = …, last = … }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Atom, E> {
        Ok(Atom::Text(text.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Atom, E> {
        Ok(Atom::Number(number))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Atom, A::Error> {
        let Range { first, last } = Range::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Atom::Range { first, last })
    }
}

impl<'de> Deserialize<'de> for Atom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Atom, D::Error> {
        deserializer.deserialize_any(AtomVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a text, a whole number, { first = …, last = … }, or a list of them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<List, E> {
        AtomVisitor.visit_str(text).map(|atom| List(vec![(None, atom)]))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<List, E> {
        AtomVisitor.visit_i64(number).map(|atom| List(vec![(None, atom)]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List, A::Error> {
        AtomVisitor.visit_map(map).map(|atom| List(vec![(None, atom)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List, A::Error> {
        let mut list = Vec::new();
        while let Some(spanned) = seq.next_element::<Spanned<Atom>>()? {
            list.push((Some(spanned.span().start), spanned.into_inner()));
        }
        Ok(List(list))
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List, D::Error> {
        deserializer.deserialize_any(ListVisitor)
    }
}
