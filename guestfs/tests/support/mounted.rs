//! exFAT images, mounted by exfat-fuse.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An image that is mounted until this is dropped.
pub(crate) struct Mounted {
    device: String,
    point: PathBuf,
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

impl Mounted {
    /// Mounts an image beside itself. Where loop devices or FUSE are missing, which needs root, that counts as a missing tool.
    pub(crate) fn new(image: &Path) -> Option<Self> {
        Self::made(image, None)
    }

    /// Mounts an image, on which a volume is made first if sectors of another size are asked for: mkfs.exfat takes those of
    /// its device.
    pub(crate) fn made(image: &Path, sector: Option<&str>) -> Option<Self> {
        let point = image.with_extension("mounted");
        std::fs::create_dir_all(&point).unwrap();
        match Self::try_new(image, point, sector) {
            Ok(mounted) => Some(mounted),
            Err(why) => {
                assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
                eprintln!("skipped: exFAT cannot be mounted: {why}");
                None
            }
        }
    }

    fn try_new(image: &Path, point: PathBuf, sector: Option<&str>) -> Result<Self, String> {
        let size = ["-b", sector.unwrap_or("512")];
        let device = output(Command::new("losetup").args(size).args(["-f", "--show"]).arg(image))?;
        let mounted = Self { device, point };
        if sector.is_some() {
            output(Command::new("mkfs.exfat").args(["-c", "16K", &mounted.device]))?;
        }
        let mut command = Command::new("mount.exfat-fuse");
        command.env("TZ", "UTC").args(["-o", "nonempty"]).arg(&mounted.device).arg(&mounted.point);
        output(&mut command)?;
        if output(Command::new("mountpoint").arg("-q").arg(&mounted.point)).is_err() {
            return Err("exfat-fuse did not stay".to_owned());
        }
        Ok(mounted)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.point
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(output(Command::new("umount").arg(&self.point)));
        // The driver writes its last blocks when it ends, and the device is free after that.
        for _ in 0..100 {
            if output(Command::new("losetup").args(["-d", &self.device])).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
