//! Any text as the name of a codec and a level.

use unlatched::record::codec::Compression;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Compression>() {
        Ok(compression) => {
            assert_eq!(compression.to_string().parse(), Ok(compression), "what it is called, it is");
            assert_eq!(compression.is_none(), text == "none");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
