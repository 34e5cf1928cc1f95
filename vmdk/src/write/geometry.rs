use blockdev::{ByteLen, SECTOR_SIZE};

use super::AdapterType;

/// The geometry that old guests see: cylinders, heads, sectors per track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders, rounded down.
    pub cylinders: u64,
    /// Heads.
    pub heads: u64,
    /// Sectors per track.
    pub sectors: u64,
}

impl Geometry {
    /// The geometry VMware's products choose. IDE: 16 heads, 63 sectors, at most 16383 cylinders (the limit of ATA-5).
    /// SCSI, following the translation of BusLogic controllers: 64 × 32 below 1 GiB, 128 × 32 below 2 GiB, else 255 × 63.
    #[must_use]
    pub fn of(capacity: ByteLen, adapter: AdapterType) -> Self {
        let (heads, sectors) = match adapter {
            AdapterType::Ide => (16, 63),
            _ if capacity.0 < 1 << 30 => (64, 32),
            _ if capacity.0 < 2 << 30 => (128, 32),
            _ => (255, 63),
        };
        let track: u64 = u64::saturating_mul(heads, sectors);
        let cylinders = (capacity.0 / SECTOR_SIZE).checked_div(track).unwrap_or(0);
        let limit = if adapter == AdapterType::Ide { 16_383 } else { u64::MAX };
        Self { cylinders: cylinders.min(limit), heads, sectors }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_follows_the_adapter_and_the_size() {
        let of = |bytes, adapter| {
            let g = Geometry::of(ByteLen(bytes), adapter);
            (g.cylinders, g.heads, g.sectors)
        };
        assert_eq!(of(5 << 30, AdapterType::Ide), (10_402, 16, 63));
        assert_eq!(of(40 << 30, AdapterType::Ide), (16_383, 16, 63));
        assert_eq!(of((1 << 30) - 512, AdapterType::LsiLogic), (1023, 64, 32));
        assert_eq!(of(1 << 30, AdapterType::LsiLogic), (512, 128, 32));
        assert_eq!(of(2 << 30, AdapterType::BusLogic), (261, 255, 63));
        assert_eq!(of(40 << 30, AdapterType::LsiLogic), (5221, 255, 63));
    }
}
