//! How much data all tabs of one storage partition together move in a day, by the local calendar: counted in IndexedDB
//! before it moves. Where the browser refuses storage there is a visit's own bound and no other.

use std::cell::Cell;

use wasm_bindgen::JsValue;

use super::database::{DAY, Database};
use super::fields::{Fields, Record};

/// What a tab counts at a time, in bytes, and may leave unused when it goes.
const STEP_BYTES: u64 = 256 * 1024;
const KEY: &str = "moved";

/// A worker's share of the day's data.
pub struct DataDay {
    database: Option<Database>,
    bytes_max: u64,
    /// Counted, and not moved yet.
    ahead_bytes: Cell<u64>,
}

impl DataDay {
    /// `bytes_max` 0 means no bound. `name` is the database's; none keeps no count.
    pub async fn open(name: Option<&str>, bytes_max: u64) -> DataDay {
        let database = match name {
            Some(name) if bytes_max > 0 => Database::open_with(&format!("{name}-{DAY}"), &[DAY]).await.ok(),
            _ => None,
        };
        DataDay { database, bytes_max, ahead_bytes: Cell::new(0) }
    }

    /// Counts bytes that are about to be used; false where the day has none left for them.
    pub async fn take(&self, bytes: u64) -> bool {
        let Some(database) = &self.database else { return true };
        while self.ahead_bytes.get() < bytes {
            let missing = bytes - self.ahead_bytes.get();
            let granted = self.count(database, missing, missing.max(STEP_BYTES)).await;
            match granted {
                Ok(0) => return false,
                Ok(granted) => self.ahead_bytes.set(self.ahead_bytes.get() + granted),
                // Storage that fails under way bounds nothing any more.
                Err(_) => return true,
            }
        }
        self.ahead_bytes.set(self.ahead_bytes.get() - bytes);
        true
    }

    /// Counts bytes that moved already, as far as the day has any left: the next that are taken then end the visit.
    #[cfg(feature = "every-layer")]
    pub async fn moved(&self, bytes: u64) {
        if let Some(database) = &self.database {
            // Storage that fails bounds nothing.
            let _ = self.count(database, 0, bytes).await;
        }
    }

    /// Counts at least `least` and at most `most` bytes, or none.
    async fn count(&self, database: &Database, least: u64, most: u64) -> Result<u64, JsValue> {
        let granted = Cell::new(0);
        database
            .update(DAY, KEY, |kept| {
                let (kept, today) = (Fields::new(kept), today());
                let moved = kept.whole("bytes").filter(|_| kept.whole("day") == Some(today)).unwrap_or(0);
                let left = self.bytes_max.saturating_sub(moved);
                if left >= least {
                    granted.set(left.min(most));
                }
                Record::new().with("day", today as f64).with("bytes", (moved + granted.get()) as f64).into()
            })
            .await?;
        Ok(granted.get())
    }
}

/// The local date as a number, as in 20260131. A clock that is set back makes another day, too.
fn today() -> u64 {
    let date = js_sys::Date::new_0();
    u64::from(date.get_full_year()) * 10_000 + u64::from(date.get_month() + 1) * 100 + u64::from(date.get_date())
}
