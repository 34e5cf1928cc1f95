//! The `Range` header: one range of bytes, as RFC 9110 section 14 has it.

/// What part of a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// All of it: no header, or one that we do not serve (several ranges, another unit).
    Whole,
    /// These bytes: first and count, at least one.
    Part(u64, u64),
    /// Nothing that the file has.
    Outside,
}

/// Reads the header for a file of `size` bytes.
pub(super) fn asked(header: Option<&str>, size: u64) -> Asked {
    let Some((first, last)) = header.and_then(|h| h.trim().strip_prefix("bytes=")?.split_once('-')) else {
        return Asked::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        // The last so many bytes.
        return match last.parse::<u64>() {
            Err(_) => Asked::Whole,
            Ok(0) => Asked::Outside,
            Ok(_) if size == 0 => Asked::Outside,
            Ok(count) => Asked::Part(size.saturating_sub(count), count.min(size)),
        };
    }
    let Ok(first) = first.parse::<u64>() else { return Asked::Whole };
    let last = match last {
        "" => u64::MAX,
        last => match last.parse::<u64>() {
            Ok(last) if last >= first => last,
            _ => return Asked::Whole,
        },
    };
    match size.checked_sub(first) {
        None | Some(0) => Asked::Outside,
        Some(left) => Asked::Part(first, left.min(last.saturating_sub(first).saturating_add(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_clipped() {
        assert_eq!(asked(Some("bytes=0-511"), 1000), Asked::Part(0, 512));
        assert_eq!(asked(Some("bytes=990-2000"), 1000), Asked::Part(990, 10));
        assert_eq!(asked(Some("bytes=990-"), 1000), Asked::Part(990, 10));
        assert_eq!(asked(Some("bytes=-10"), 1000), Asked::Part(990, 10));
        assert_eq!(asked(Some("bytes=-2000"), 1000), Asked::Part(0, 1000));
        assert_eq!(asked(Some("bytes=0-18446744073709551615"), 1000), Asked::Part(0, 1000));
    }

    #[test]
    fn what_lies_outside_is_told_apart_from_what_is_no_range() {
        assert_eq!(asked(Some("bytes=1000-"), 1000), Asked::Outside);
        assert_eq!(asked(Some("bytes=-0"), 1000), Asked::Outside);
        assert_eq!(asked(Some("bytes=0-0"), 0), Asked::Outside);
        for odd in [None, Some("bytes=5-1"), Some("bytes=0-1,5-6"), Some("lines=1-2"), Some("bytes=x-y")] {
            assert_eq!(asked(odd, 1000), Asked::Whole, "{odd:?}");
        }
    }
}
