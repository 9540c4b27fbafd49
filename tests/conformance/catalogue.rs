//! Holds the suite against the papers: every behaviour in scope has a test, and every test names a behaviour.

use std::collections::{BTreeMap, BTreeSet};

use crate::deviations::{ALLOWED, PROMISES};
use crate::support::CORES;

const SCOPE: &str = include_str!("../../papers/scope.md");
const CATALOGUE: &str = include_str!("../../papers/catalogue.md");

/// The tables of `papers/scope.md`.
const TABLES: [&str; 6] = [
    "In scope",
    "Not applicable",
    "In part",
    "Deviations",
    "Beyond Kafka on the lock-free core",
    "Beyond Kafka on both cores",
];

/// The lock-free core's own tests, for what no test of every core can ask.
const OWN: [&str; 5] = [
    include_str!("../../src/pool/tests.rs"),
    include_str!("../../src/pool/tests/order.rs"),
    include_str!("../../src/pool/tests/stopped.rs"),
    include_str!("../../src/pool/tests/tasks.rs"),
    include_str!("laws.rs"),
];

/// A behaviour's name: family and number, as in POOL-10.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id(String, u32);

impl Id {
    /// `POOL-10`.
    fn parse(text: &str) -> Option<Self> {
        let (family, number) = text.split_once('-')?;
        let well_formed = !family.is_empty()
            && family.chars().all(|c| c.is_ascii_uppercase())
            && number.len() == 2
            && number.chars().all(|c| c.is_ascii_digit());
        if well_formed { Some(Self(family.into(), number.parse().ok()?)) } else { None }
    }

    /// The behaviour that a test named `pool_10_...` pins.
    fn of_test(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '_');
        let (family, number, rest) = (parts.next()?, parts.next()?, parts.next()?);
        if rest.is_empty() || family.chars().any(|c| c.is_ascii_uppercase()) {
            return None;
        }
        Self::parse(&format!("{}-{number}", family.to_ascii_uppercase()))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{:02}", self.0, self.1)
    }
}

/// One row of a table: the id of its first cell, and the other cells.
struct Row {
    id: Id,
    cells: Vec<String>,
}

impl Row {
    /// The ids in a cell that holds nothing else.
    fn ids(&self, cell: usize) -> Vec<Id> {
        let text = &self.cells[cell];
        text.split(", ").map(|id| Id::parse(id).unwrap_or_else(|| panic!("{}: not an id: {id}", self.id))).collect()
    }
}

/// The tables of `page` by heading.
fn tables(page: &str) -> BTreeMap<String, Vec<Row>> {
    let mut tables = BTreeMap::new();
    let mut heading = String::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title.trim().to_owned();
            assert!(!tables.contains_key(&heading), "two tables called {heading}");
        } else if let Some(row) = line.strip_prefix('|') {
            let rows: &mut Vec<Row> = tables.entry(heading.clone()).or_default();
            let mut cells = row.trim_end().trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned());
            if let Some(id) = cells.next().as_deref().and_then(Id::parse) {
                rows.push(Row { id, cells: cells.collect() });
            }
        }
    }
    tables
}

/// Every id that the catalogue defines: bold in exactly one place.
fn defined(catalogue: &str) -> BTreeSet<Id> {
    let mut ids = BTreeSet::new();
    for id in catalogue.split("**").skip(1).step_by(2).filter_map(Id::parse) {
        let name = id.to_string();
        assert!(ids.insert(id), "{name} is defined twice");
    }
    ids
}

/// The names of all tests, each once: they run on every core, or on none in particular (the format).
fn tests() -> Vec<&'static str> {
    crate::REGISTRY.iter().flat_map(|tests| tests.iter().copied()).collect()
}

struct Scope {
    in_scope: BTreeSet<Id>,
    not_applicable: BTreeSet<Id>,
    tables: BTreeMap<String, Vec<Row>>,
}

fn scope() -> Scope {
    let tables = tables(SCOPE);
    let mut in_scope = BTreeSet::new();
    for row in &tables["In scope"] {
        let [to] = row.ids(0).try_into().unwrap_or_else(|_| panic!("{}: a range has one end", row.id));
        assert!(row.id.0 == to.0 && row.id.1 <= to.1, "not a range: {} to {to}", row.id);
        for number in row.id.1..=to.1 {
            assert!(in_scope.insert(Id(to.0.clone(), number)), "in scope twice: {}-{number:02}", to.0);
        }
    }
    let not_applicable = tables["Not applicable"].iter().map(|row| row.id.clone()).collect();
    Scope { in_scope, not_applicable, tables }
}

#[test]
fn the_scope_has_its_six_tables_and_names_only_known_ids() {
    let Scope { in_scope, not_applicable, tables } = scope();
    assert_eq!(tables.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(TABLES));
    // Nothing need be not applicable.
    assert!(tables.iter().all(|(name, rows)| name == "Not applicable" || !rows.is_empty()), "a table without rows");
    let defined = defined(CATALOGUE);
    for id in tables.values().flatten().map(|row| &row.id).chain(&in_scope) {
        assert!(defined.contains(id), "{id} is not in the catalogue");
    }
    for row in &tables["Not applicable"] {
        assert!(in_scope.contains(&row.id), "{} is not in scope, so it cannot be not applicable", row.id);
        assert!(row.cells[0].len() > 20, "{}: not applicable without a reason", row.id);
    }
    for row in &tables["In part"] {
        assert!(in_scope.contains(&row.id) && !not_applicable.contains(&row.id), "{} cannot hold in part", row.id);
        assert!(!row.cells[0].is_empty() && !row.cells[1].is_empty(), "{}: which clause is left out, and why?", row.id);
    }
    for row in tables["Beyond Kafka on both cores"].iter().chain(&tables["Beyond Kafka on the lock-free core"]) {
        assert_eq!(row.id.0, "GAP");
        let concerned = row.ids(2);
        assert!(concerned.iter().all(|id| defined.contains(id)), "{}: {concerned:?}", row.id);
    }
}

#[test]
fn every_id_in_scope_has_a_test_and_every_test_an_id() {
    let Scope { in_scope, not_applicable, tables } = scope();
    let defined = defined(CATALOGUE);
    let beyond: BTreeSet<&Id> = tables["Beyond Kafka on both cores"].iter().map(|row| &row.id).collect();
    let tests = tests();
    let mut covered = BTreeSet::new();
    for test in &tests {
        let id = Id::of_test(test).unwrap_or_else(|| panic!("{test} names no behaviour"));
        assert!(defined.contains(&id), "{test}: {id} is not in the catalogue");
        assert!(!not_applicable.contains(&id), "{test}: {id} is said to be not applicable");
        assert!(id.0 != "GAP" || beyond.contains(&id), "{test}: no core promises {id} on its own account here");
        covered.insert(id);
    }
    let missing: Vec<String> = in_scope
        .iter()
        .filter(|id| !not_applicable.contains(id))
        .chain(beyond.iter().copied())
        .filter(|id| !covered.contains(id))
        .map(Id::to_string)
        .collect();
    let tested = in_scope.iter().filter(|id| covered.contains(id)).count();
    println!(
        "conformance: {} ids in scope, {tested} tested by {} tests on {} cores, {} not applicable; {} promises beyond Kafka",
        in_scope.len(),
        tests.len(),
        CORES.len(),
        not_applicable.len(),
        beyond.len(),
    );
    assert!(missing.is_empty(), "without a test: {}", missing.join(", "));
    assert_eq!(tested + not_applicable.len(), in_scope.len());
}

#[test]
fn every_promise_of_the_lock_free_core_has_a_test_of_its_own() {
    let own: BTreeSet<Id> = OWN
        .iter()
        .flat_map(|source| source.split("#[test]\nfn ").skip(1))
        .filter_map(|test| Id::of_test(test.split('(').next()?))
        .collect();
    let tables = scope().tables;
    let promised = tables["Beyond Kafka on the lock-free core"].iter().map(|row| row.id.clone());
    // Those of the pool that stand in rows of other tables are asked of every core as well.
    let suite: BTreeSet<Id> = tests().into_iter().filter_map(Id::of_test).collect();
    let pools = (1..=10).chain([35]).map(|number| Id("GAP".into(), number));
    let missing: Vec<_> = pools.filter(|id| !own.contains(id) && !suite.contains(id)).collect();
    assert!(missing.is_empty(), "without a test: {missing:?}");
    let missing: Vec<_> = promised.filter(|id| !own.contains(id)).collect();
    assert!(missing.is_empty(), "without a test: {missing:?}");
}

#[test]
fn test_names_are_unique() {
    let tests = tests();
    assert_eq!(tests.iter().collect::<BTreeSet<_>>().len(), tests.len());
}

#[test]
fn deviations_are_the_allowed_ones() {
    let pairs: Vec<(String, String)> = scope().tables["Deviations"]
        .iter()
        .map(|row| {
            let [gap] = row.ids(0).try_into().unwrap_or_else(|_| panic!("{}: one GAP a row", row.id));
            assert!(row.cells[1..3].iter().all(|cell| !cell.is_empty()), "{}: what does which core do?", row.id);
            (row.id.to_string(), gap.to_string())
        })
        .collect();
    let allowed: Vec<_> = ALLOWED.iter().map(|(id, gap)| ((*id).to_owned(), (*gap).to_owned())).collect();
    assert_eq!(pairs, allowed, "a difference between the cores was added or taken away: decide it in deviations.rs");
}

#[test]
fn every_core_says_what_it_promises() {
    assert_eq!(PROMISES.iter().map(|(core, _)| *core).collect::<Vec<_>>(), CORES);
    for gap in PROMISES.iter().flat_map(|(_, promises)| promises.iter()) {
        assert!(ALLOWED.iter().any(|(_, allowed)| allowed == gap), "{gap} is no allowed difference");
    }
}

#[test]
fn ids_and_tables_are_read_as_they_are_written() {
    assert_eq!(Id::of_test("pool_10_timeout").map(|id| id.to_string()).as_deref(), Some("POOL-10"));
    for no_id in ["pool_10", "pool_10_", "pool_1_x", "pool_100_x", "Pool_10_x", "timeout_10_", "10_pool_x", "pool"] {
        assert_eq!(Id::of_test(no_id), None, "{no_id}");
    }
    let page = "## A\n\n| id | x |\n|---|---|\n| POOL-01 | POOL-02, GAP-03 |\n| **POOL-02** | - |\n";
    let rows = &tables(page)["A"];
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].ids(0), [Id("POOL".into(), 2), Id("GAP".into(), 3)]);
    assert_eq!(defined("- **ACC-01** x ACC-02\n| **CFG-01** |"), [Id("ACC".into(), 1), Id("CFG".into(), 1)].into());
}
