//! What is kept between visits of times that were compared: text, a line per comparison, which its reader distrusts.

/// Most shares that are read or kept.
const SHARES_MAX: usize = 128;

/// Times as shares of another's, in thousandths, by name of what was timed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares(Vec<(String, u32)>);

impl Shares {
    /// Reads a text; lines that say nothing are passed over.
    pub fn parse(text: &str) -> Shares {
        let mut shares = Shares::default();
        for line in text.lines().take(SHARES_MAX) {
            if let Some((name, share)) = line.rsplit_once(' ')
                && let Ok(share) = share.parse()
            {
                shares.add(name, share);
            }
        }
        shares
    }

    pub fn text(&self) -> String {
        self.0.iter().map(|(name, share)| format!("{name} {share}\n")).collect()
    }

    /// In the place of an earlier one of the same name, or of the oldest where there are too many.
    pub fn add(&mut self, name: &str, share: u32) {
        self.0.retain(|(other, _)| other != name);
        if self.0.len() >= SHARES_MAX {
            self.0.remove(0);
        }
        self.0.push((name.to_owned(), share));
    }

    pub fn get(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, share)| *share)
    }

    /// Whether one of them is so.
    pub fn any(&self, is_so: impl Fn(&str, u32) -> bool) -> bool {
        self.0.iter().any(|(name, share)| is_so(name, *share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_survive_their_text_and_nonsense_does_not() {
        let mut shares = Shares::default();
        shares.add("step of 16 calls, 9 operations", 80);
        shares.add("64x32x48 nn", 1200);
        shares.add("64x32x48 nn", 700);
        assert_eq!(Shares::parse(&shares.text()), shares);
        assert_eq!((shares.get("64x32x48 nn"), shares.get("64x32x48")), (Some(700), None));
        for nonsense in ["", "x", "a b", "a -5", "a 1.5"] {
            assert_eq!(Shares::parse(nonsense), Shares::default(), "{nonsense}");
        }
        for name in 0..2 * SHARES_MAX {
            shares.add(&name.to_string(), 5);
        }
        assert_eq!((shares.0.len(), shares.get("0"), shares.get("255")), (SHARES_MAX, None, Some(5)));
        let long: String = (0..3 * SHARES_MAX).map(|i| format!("{i} 5\n")).collect();
        assert_eq!(Shares::parse(&long).0.len(), SHARES_MAX);
    }
}
