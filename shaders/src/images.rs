//! What convolutions and pools share: the extent of their output, and the part of a computation that one call makes.
//! Images are NHWC, `[batch, height, width, channels]`, row-major.

/// Positions of a window along one axis: `(extent + 2·padding − window) / stride + 1`, none where it does not fit.
/// `stride` is at least 1.
pub fn extent(extent: u32, window: u32, stride: u32, padding: u32) -> u32 {
    (extent + 2 * padding).checked_sub(window).map_or(0, |room| room / stride + 1)
}

/// Images (or splits of a sum) that one call computes: `first` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub first: u32,
    pub end: u32,
}

impl Part {
    pub fn count(self) -> u32 {
        self.end.saturating_sub(self.first)
    }
}

/// The input position under tap `tap` of the window at `position`; none in the padding.
pub(crate) fn under(position: u32, tap: u32, stride: u32, padding: u32, extent: u32) -> Option<usize> {
    let at = (position * stride + tap).checked_sub(padding)?;
    (at < extent).then_some(at as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_and_what_lies_under_a_window() {
        let check = |input, window, stride, padding, expected| assert_eq!(extent(input, window, stride, padding), expected);
        check(28, 5, 1, 0, 24);
        check(24, 2, 2, 0, 12);
        check(5, 3, 2, 1, 3);
        check(2, 3, 1, 0, 0);
        check(2, 3, 1, 1, 2);
        check(0, 3, 1, 1, 0);
        assert_eq!(under(0, 0, 2, 1, 5), None);
        assert_eq!(under(0, 1, 2, 1, 5), Some(0));
        assert_eq!(under(2, 2, 2, 1, 5), None);
        assert_eq!(under(2, 1, 2, 1, 5), Some(4));
    }
}
