//! A file system in an image file, in memory that can run out: a disk that a test can fill up,
//! break and unplug. It needs root and loop devices.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What an image takes at most, with a copy of it.
const RAM_MIB: u64 = 256;

/// Says that a test could not be run, where no harness captures it.
pub(crate) fn say_skipped(reason: &str) {
    writeln!(io::stderr(), "skipped: {reason}").expect("standard error is there");
}

/// Runs a program; its error is what it said.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let mut text = format!("{program} {}: {}", arguments.join(" "), output.status);
    write!(text, ", {}", String::from_utf8_lossy(&output.stderr).trim()).expect("text takes text");
    Err(text)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// An image with a file system on it, on a `tmpfs` of its own. Nothing of it is left when it is
/// dropped, also by a test that fails.
pub(crate) struct Bench {
    root: tempfile::TempDir,
    file_system: &'static str,
    ram_mounted: bool,
    mounted: bool,
    loop_device: Option<String>,
}

impl Bench {
    /// Makes a file system of `image_mib` in memory of `RAM_MIB`, and mounts it. An error is the
    /// reason why that is not possible on this machine.
    pub(crate) fn new(file_system: &'static str, image_mib: u64) -> Result<Self, String> {
        if run("id", &["-u"])? != "0" {
            return Err("only root may mount".to_owned());
        }
        let known = fs::read_to_string("/proc/filesystems").map_err(|e| e.to_string())?;
        if !known.split_whitespace().any(|name| name == file_system) {
            return Err(format!("the kernel has no {file_system}"));
        }
        let root = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut bench =
            Self { root, file_system, ram_mounted: false, mounted: false, loop_device: None };
        for directory in [bench.ram(), bench.mount_point()] {
            fs::create_dir(directory).map_err(|e| e.to_string())?;
        }
        let size = format!("size={RAM_MIB}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(&bench.ram())])?;
        bench.ram_mounted = true;
        let image = File::create(bench.image()).map_err(|e| e.to_string())?;
        image.set_len(image_mib * 1024 * 1024).map_err(|e| e.to_string())?;
        let maker = format!("mkfs.{file_system}");
        // What ext4 would otherwise write later by itself, it writes now.
        let options: &[&str] = match file_system {
            "ext4" => &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            _ => &["-q"],
        };
        run(&maker, &[options, &[text(&bench.image())]].concat())?;
        bench.try_mount()?;
        Ok(bench)
    }

    fn ram(&self) -> PathBuf {
        self.root.path().join("ram")
    }

    fn image(&self) -> PathBuf {
        self.ram().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.root.path().join("mnt")
    }

    /// Where a log can be.
    pub(crate) fn directory(&self) -> PathBuf {
        self.mount_point().join("log")
    }

    fn try_mount(&mut self) -> Result<(), String> {
        let device = run("losetup", &["--find", "--show", text(&self.image())])?;
        self.loop_device = Some(device.clone());
        // Linux's loop driver takes a write that was cut short for a success: `lo_complete_rq`
        // in <https://github.com/torvalds/linux/blob/v6.18/drivers/block/loop.c> asks only
        // whether it failed. One page at a time is written as a whole or not at all.
        let name = device.trim_start_matches("/dev/");
        let limit = format!("/sys/block/{name}/queue/max_sectors_kb");
        fs::write(&limit, "4").map_err(|error| format!("{limit}: {error}"))?;
        let point = self.mount_point();
        run("mount", &["-t", self.file_system, "-o", "noatime", &device, text(&point)])?;
        self.mounted = true;
        Ok(())
    }

    pub(crate) fn mount(&mut self) {
        self.try_mount().expect("what was mounted before can be mounted again");
    }

    pub(crate) fn unmount(&mut self) {
        run("umount", &[text(&self.mount_point())]).expect("nothing is open there");
        self.mounted = false;
        if let Some(device) = self.loop_device.take() {
            run("losetup", &["--detach", &device]).expect("nothing is mounted from it");
        }
    }

    /// What a power cut does: the image is as the file system has written it, and its memory is
    /// gone. `end_process` lets go of what is open there.
    pub(crate) fn cut_power_under(&mut self, end_process: impl FnOnce()) {
        let copy = self.copy();
        end_process();
        // Whatever is still written goes to an image that is thrown away.
        self.unmount();
        fs::rename(copy, self.image()).expect("a file is renamed");
        self.mount();
    }

    /// Gives back the memory of every block of zeros, as a thinly provisioned disk does: from
    /// then on, a write to one of them needs memory again.
    pub(crate) fn provision_thinly(&mut self) {
        self.unmount();
        fs::rename(self.copy(), self.image()).expect("a file is renamed");
        self.mount();
    }

    /// A copy of what the device holds now.
    fn copy(&self) -> PathBuf {
        let copy = self.ram().join("copy");
        run("cp", &["--sparse=always", text(&self.image()), text(&copy)]).expect("there is room");
        copy
    }

    /// Takes all memory that is left, so that the disk can write to no block that it has not
    /// written to before.
    pub(crate) fn exhaust(&self) {
        fill(&self.ram().join("ballast"));
    }

    pub(crate) fn relieve(&self) {
        fs::remove_file(self.ram().join("ballast")).expect("it is there");
    }

    /// Fills up the file system itself.
    pub(crate) fn fill_up(&self) {
        fill(&self.mount_point().join("ballast"));
    }

    /// Makes room in the file system itself.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.mount_point().join("ballast")).expect("it is there");
    }
}

/// Writes until there is no room for another byte.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("an empty file needs no room");
    let mut bytes = vec![0xb5; 64 * 1024];
    while !bytes.is_empty() {
        match file.write_all(&bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                bytes.truncate(bytes.len() / 2);
            }
            Err(error) => panic!("expected a full disk, found {error}"),
        }
    }
    // A file system that allocates late would find out only then.
    file.sync_all().expect("what was taken is there");
}

impl Drop for Bench {
    fn drop(&mut self) {
        let mut failed = Vec::new();
        if self.mounted {
            // A failing test may have files open there.
            failed.extend(run("umount", &["-l", text(&self.mount_point())]).err());
        }
        if let Some(device) = &self.loop_device {
            failed.extend(run("losetup", &["--detach", device]).err());
        }
        if self.ram_mounted {
            failed.extend(run("umount", &["-l", text(&self.ram())]).err());
        }
        // A second panic would end the test's process and hide the first.
        assert!(failed.is_empty() || std::thread::panicking(), "not cleared away: {failed:?}");
    }
}
