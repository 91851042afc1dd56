//! The local layers: what the gateway itself says, in files and in its environment.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    Config, DEFAULT_STATE_DIR,
    compose::{Loaded, compose},
    error::{ConfigError, Problem},
    identity::derived_id,
    keys::Key,
    layers::{Layer, fragments},
};
use crate::gather::Gather as _;

/// Where provisioning puts its layer, below [`Environment::state_dir`].
const PROVISIONED: &str = "provisioned/tidegate.toml";

/// What the daemon finds around it besides the files: given, so that tests give their own.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Environment variables.
    pub variables: BTreeMap<OsString, OsString>,
    /// File with the machine id, `/etc/machine-id`.
    pub machine_id_file: PathBuf,
}

impl Environment {
    /// The one that this process runs in.
    #[must_use]
    pub fn of_process() -> Self {
        Self { variables: std::env::vars_os().gather(), machine_id_file: "/etc/machine-id".into() }
    }

    /// Where state is kept: `$STATE_DIRECTORY` is what systemd made for the unit (several are joined by colons: ours
    /// is the first), else `/var/lib/tidegate`.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        let folders = self.variables.get(&OsString::from("STATE_DIRECTORY")).and_then(|folders| folders.to_str());
        let first = folders.and_then(|folders| folders.split(':').next()).filter(|folder| folder.starts_with('/'));
        first.unwrap_or(DEFAULT_STATE_DIR).into()
    }
}

/// The main file, and whether somebody asked for that very one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it has to be there: a file that was named and is absent is a mistyped name, not a wish for defaults.
    pub required: bool,
}

impl MainFile {
    /// Reads all local layers: what was provisioned, this file, `conf.d/*.toml` beside it, the environment. All but the
    /// environment may be absent.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the layers; at least one. That a required file is absent.
    pub fn read(&self, environment: &Environment) -> Result<Local, Vec<ConfigError>> {
        if self.required
            && let Err(error) = fs::metadata(&self.path)
        {
            return Err(vec![ConfigError::with_layer(self.path.display().to_string(), Problem::Missing(error))]);
        }
        let mut errors = Vec::new();
        let local = Local::read(&self.path, environment, &mut errors);
        match compose(&local, &[]) {
            Ok(loaded) if loaded.config.gateway.id.is_empty() => {
                // Wanted, and not there: deriving it again says why.
                let problem = derived_id(&environment.machine_id_file).err();
                errors.extend(problem.map(|problem| ConfigError::with_key("default".into(), "gateway.id", problem)));
            }
            Ok(_) => {}
            Err(contradictions) => errors.extend(contradictions),
        }
        if errors.is_empty() { Ok(local) } else { Err(errors) }
    }

    /// [`Self::read`], and what these layers alone make.
    ///
    /// # Errors
    ///
    /// Those of [`Self::read`].
    pub fn load(&self, environment: &Environment) -> Result<Loaded, Vec<ConfigError>> {
        Ok(self.read(environment)?.composed())
    }
}

/// Every local layer, each valid by itself and all of them together.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    main_file: PathBuf,
    /// What was provisioned, the main file and its fragments, in the order in which they apply.
    files: Vec<Layer>,
    environment: Layer,
    state_dir: PathBuf,
    /// The gateway's id where no layer sets one; empty where the machine has none.
    derived_id: String,
}

impl Local {
    /// When each file that may be there was last changed, and how large it is: as long as this is the same, so are the
    /// layers. Absent files are absent; the environment of a process does not change.
    #[must_use]
    pub fn fingerprint(
        main_file: &Path,
        environment: &Environment,
    ) -> BTreeMap<PathBuf, (Option<SystemTime>, u64, u64)> {
        let of = |path: PathBuf| {
            let metadata = fs::metadata(&path).ok()?;
            Some((path, (metadata.modified().ok(), metadata.len(), metadata.ino())))
        };
        Self::paths(main_file, environment, &mut Vec::new()).into_iter().filter_map(of).gather()
    }

    /// The files in the order in which they apply; any of them may be absent.
    fn paths(main_file: &Path, environment: &Environment, errors: &mut Vec<ConfigError>) -> Vec<PathBuf> {
        let conf_d = main_file.parent().unwrap_or(Path::new("")).join("conf.d");
        let mut paths = vec![environment.state_dir().join(PROVISIONED), main_file.to_owned()];
        // The state is the service's alone. Whoever else checks the files (a technician, without being root) sees those that
        // he may; a daemon that may not look into its own state says so of the spool.
        if fs::metadata(&paths[0]).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            paths.remove(0);
        }
        paths.extend(fragments(&conf_d, errors));
        paths
    }

    fn read(main_file: &Path, environment: &Environment, errors: &mut Vec<ConfigError>) -> Self {
        let paths = Self::paths(main_file, environment, errors);
        Self {
            main_file: main_file.to_owned(),
            files: paths.iter().filter_map(|path| Layer::of_file(path, errors)).collect(),
            environment: Layer::of_environment(&environment.variables, errors),
            state_dir: environment.state_dir(),
            derived_id: derived_id(&environment.machine_id_file).unwrap_or_default(),
        }
    }

    /// What these layers alone make.
    ///
    /// # Panics
    ///
    /// Never: layers that contradict each other were refused when they were read.
    #[must_use]
    pub fn composed(&self) -> Loaded {
        compose(self, &[]).expect("they were found to be valid together")
    }

    /// What the files say of a key, the last of them; `None` where they are silent.
    #[must_use]
    pub fn file(&self, key: &Key) -> Option<serde_json::Value> {
        let said = self.files.iter().rev().find_map(|layer| layer.get(key))?;
        Some(self.normal(key, said))
    }

    /// What the environment says of a key; `None` where it is silent.
    #[must_use]
    pub fn environment(&self, key: &Key) -> Option<serde_json::Value> {
        Some(self.normal(key, self.environment.get(key)?))
    }

    /// A value of a layer as [`Key::get`] gives it of a configuration that has it: "90s" is "1m30s".
    fn normal(&self, key: &Key, value: &config::Value) -> serde_json::Value {
        let mut config = self.defaults();
        // It was judged when it was read.
        let _accepted = (key.set)(&mut config, value);
        self.complete(&mut config);
        key.get(&config)
    }

    /// Those of this machine, as far as they do not depend on a layer.
    pub(super) fn defaults(&self) -> Config {
        let mut config = Config::defaults("");
        config.spool.dir = self.state_dir.join("spool");
        config
    }

    /// Fills in what no layer sets.
    pub(super) fn complete(&self, config: &mut Config) {
        if config.gateway.id.is_empty() {
            config.gateway.id.clone_from(&self.derived_id);
        }
    }

    /// In the order in which they apply.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.files.iter().chain([&self.environment])
    }

    /// The main file, for messages about all layers together.
    pub(super) fn place(&self) -> String {
        self.main_file.display().to_string()
    }
}
