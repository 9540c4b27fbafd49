//! Appends to one partition while one thread drains, as `unlatched bench --suite append` does it. `cargo bench --bench append`: criterion, with plots in `target/criterion`.

mod suite;

fn main() {
    suite::run("append");
}
