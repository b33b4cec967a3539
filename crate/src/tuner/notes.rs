//! What is kept between sessions of what was measured: text, a line per try, which its reader distrusts. Where it is kept
//! is the host's business.

use manyhands_shaders::matmul::Variant;

use super::variant_named;

/// Most tries that are read or kept; a longer text is cut.
const TRIES_MAX: usize = 1024;

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// Its time as a share of the usual variant's, in thousandths.
    Share(u32),
    /// A wrong result, or a refusal of the device.
    Wrong,
}

/// Tries by name of the product.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes(Vec<(String, Variant, Measured)>);

impl Notes {
    /// Reads a text; lines that say nothing are passed over.
    pub fn parse(text: &str) -> Notes {
        let mut notes = Notes::default();
        for line in text.lines().take(TRIES_MAX) {
            let mut words = line.rsplitn(3, ' ');
            let (measured, variant, product) = (words.next(), words.next(), words.next());
            let measured = match measured {
                Some("wrong") => Some(Measured::Wrong),
                share => share.and_then(|s| s.parse().ok()).map(Measured::Share),
            };
            if let (Some(measured), Some(variant), Some(product)) = (measured, variant.and_then(variant_named), product) {
                notes.add(product, variant, measured);
            }
        }
        notes
    }

    pub fn text(&self) -> String {
        let line = |(product, variant, measured): &(String, Variant, Measured)| {
            let measured = match measured {
                Measured::Share(share) => share.to_string(),
                Measured::Wrong => "wrong".to_owned(),
            };
            format!("{product} {} {measured}\n", variant.name())
        };
        self.0.iter().map(line).collect()
    }

    /// Adds a try, in the place of an earlier one of the same, or of the oldest share where there are too many. A variant is
    /// noted as wrong once, so that shares are the most there is.
    pub fn add(&mut self, product: &str, variant: Variant, measured: Measured) {
        self.0.retain(|(name, of, _)| (name.as_str(), *of) != (product, variant));
        if measured == Measured::Wrong && self.is_wrong(variant) {
            return;
        }
        if self.0.len() >= TRIES_MAX
            && let Some(oldest) = self.0.iter().position(|(_, _, measured)| *measured != Measured::Wrong)
        {
            self.0.remove(oldest);
        }
        self.0.push((product.to_owned(), variant, measured));
    }

    pub fn get(&self, product: &str, variant: Variant) -> Option<Measured> {
        self.0.iter().find(|(name, of, _)| (name.as_str(), *of) == (product, variant)).map(|(_, _, measured)| *measured)
    }

    /// Whether a variant was wrong for any product: then it is trusted for none.
    pub fn is_wrong(&self, variant: Variant) -> bool {
        self.0.iter().any(|(_, of, measured)| *of == variant && *measured == Measured::Wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_survive_their_text_and_nonsense_does_not() {
        let mut notes = Notes::default();
        notes.add("64x784x256 nn", Variant::Blocked, Measured::Share(870));
        notes.add("64x784x256 nn", Variant::BlockedVec4, Measured::Share(1200));
        notes.add("64x784x256 nn", Variant::BlockedVec4, Measured::Wrong);
        notes.add("1x2x3 tn", Variant::Blocked, Measured::Share(1));
        assert_eq!(Notes::parse(&notes.text()), notes);
        assert_eq!(notes.get("64x784x256 nn", Variant::Blocked), Some(Measured::Share(870)));
        assert_eq!(notes.get("1x2x3 nn", Variant::Blocked), None);
        assert!(notes.is_wrong(Variant::BlockedVec4) && !notes.is_wrong(Variant::Blocked));
        for nonsense in ["", "x", "a b", "1x2x3 nn matmul_none 5", "1x2x3 nn matmul_blocked -5", "1x2x3 nn matmul_blocked 1.5"] {
            assert_eq!(Notes::parse(nonsense), Notes::default(), "{nonsense}");
        }
        let long: String = (0..3 * TRIES_MAX).map(|i| format!("{i} matmul_blocked 5\n")).collect();
        assert_eq!(Notes::parse(&long).0.len(), TRIES_MAX);
    }

    #[test]
    fn full_notes_drop_the_oldest_share_and_nothing_wrong() {
        let mut notes = Notes::default();
        for product in ["0", "1"] {
            notes.add(product, Variant::Tiled, Measured::Wrong);
        }
        assert_eq!(notes.0.len(), 1, "wrong for one is wrong for all");
        for product in 1..2 * TRIES_MAX {
            notes.add(&product.to_string(), Variant::Blocked, Measured::Share(5));
        }
        assert_eq!(notes.0.len(), TRIES_MAX);
        assert!(notes.is_wrong(Variant::Tiled));
        assert_eq!(notes.get("1", Variant::Blocked), None, "the oldest");
        let newest = (2 * TRIES_MAX - 1).to_string();
        assert_eq!(notes.get(&newest, Variant::Blocked), Some(Measured::Share(5)));
        assert_eq!(Notes::parse(&notes.text()), notes);
    }
}
