//! How much a visit sends and receives, against what was consented to. It counts bodies; headers are the browser's.

use std::cell::Cell;
use std::rc::Rc;

/// Bytes of a visit so far and the most there may be; clones count together.
#[derive(Debug, Clone)]
pub struct DataUse {
    used_bytes: Rc<Cell<u64>>,
    bytes_max: u64,
}

impl DataUse {
    /// `bytes_max` 0 means no bound.
    pub fn new(used_bytes: u64, bytes_max: u64) -> Self {
        Self { used_bytes: Rc::new(Cell::new(used_bytes)), bytes_max }
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.get()
    }

    /// 0 where there is no bound.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// What may still be sent and received.
    pub fn left_bytes(&self) -> u64 {
        if self.bytes_max == 0 { u64::MAX } else { self.bytes_max.saturating_sub(self.used_bytes()) }
    }

    pub fn count(&self, bytes: u64) {
        self.used_bytes.set(self.used_bytes().saturating_add(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together_up_to_the_bound() {
        let (data, free) = (DataUse::new(10, 100), DataUse::new(10, 0));
        data.clone().count(60);
        assert_eq!((data.used_bytes(), data.left_bytes()), (70, 30));
        data.count(u64::MAX);
        assert_eq!(data.left_bytes(), 0);
        free.count(5);
        assert_eq!((free.used_bytes(), free.left_bytes()), (15, u64::MAX));
    }
}
