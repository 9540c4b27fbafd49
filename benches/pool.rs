//! Allocate and free, as `unlatched bench --suite pool` does it. `cargo bench --bench pool`: criterion, with plots in `target/criterion`.

mod suite;

fn main() {
    suite::run("pool");
}
