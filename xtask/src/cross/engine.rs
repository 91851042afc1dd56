//! Docker or Podman, whichever works.

use std::{env, fs, path::PathBuf, process::Command};

use crate::{
    packages,
    privilege::Privilege,
    shell::{self, heading},
};

/// What runs containers.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    name: String,
    /// A configuration of our own for Podman, where the machine's starts nothing.
    containers_conf: Option<PathBuf>,
}

/// For machines that may not raise limits or make network namespaces: small virtual machines, containers, CI.
const CONTAINERS_CONF: &str = r#"# Written by `cargo xtask cross`, for its own calls of podman.
[containers]
netns = "host"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"#;

impl Engine {
    /// The one that the caller names (`CROSS_CONTAINER_ENGINE`), else Docker, else Podman, which is installed where
    /// there is neither. A client without its daemon does not count.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(super) fn get(privilege: &Privilege) -> Result<Self, String> {
        if let Ok(name) = env::var("CROSS_CONTAINER_ENGINE") {
            return Ok(Self { name, containers_conf: None });
        }
        Self::find()
            .or_else(|| {
                packages::install(privilege, &packages::ENGINE);
                Self::find()
            })
            .ok_or_else(|| "neither docker nor podman works here; on Debian: apt-get install podman".to_owned())
    }

    fn find() -> Option<Self> {
        // `info` is answered by the daemon, and fails without.
        let works = |name: &&str| shell::works(Command::new(name).arg("info"));
        let name = ["docker", "podman"].into_iter().find(works)?;
        Some(Self { name: name.to_owned(), containers_conf: None })
    }

    /// As it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A command of it.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.name);
        command.args(arguments);
        self.configure(&mut command);
        command
    }

    /// Lets a command that calls it find our configuration.
    pub(super) fn configure(&self, command: &mut Command) {
        if let Some(path) = &self.containers_conf {
            command.env("CONTAINERS_CONF", path);
        }
    }

    /// This engine, so that it starts containers of `image`: as it is, or Podman with a configuration of our own.
    ///
    /// # Errors
    ///
    /// It starts none; with what it said.
    pub(super) fn that_starts(&self, image: &str, privilege: &Privilege) -> Result<Self, String> {
        let starts = |engine: &Self| {
            let (status, said) = shell::quietly(&mut engine.command(&["run", "--rm", image, "true"]))?;
            if status.success() { Ok(()) } else { Err(said) }
        };
        let Err(said) = starts(self) else { return Ok(self.clone()) };
        if !self.name.ends_with("podman") {
            return Err(format!("{} starts no container: {said}", self.name));
        }
        let path = crate::target().join("cross/containers.conf");
        heading("Podman starts no container as it is configured");
        println!("{said}\ntrying again with {}", path.display());
        packages::install(privilege, &packages::RUNTIME);
        let runc = packages::installed("runc");
        let text = CONTAINERS_CONF.to_owned() + if runc { "[engine]\nruntime = \"runc\"\n" } else { "" };
        // The folder is not there yet where the image was made by another checkout.
        let write = || fs::create_dir_all(crate::target().join("cross")).and_then(|()| fs::write(&path, text));
        write().map_err(|error| format!("{}: {error}", path.display()))?;
        let engine = Self { name: self.name.clone(), containers_conf: Some(path) };
        starts(&engine).map_err(|said| format!("podman starts no container: {said}"))?;
        Ok(engine)
    }
}
