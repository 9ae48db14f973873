//! Promise: the PHP package's config becomes one of ours, by the real PHP, and what can't be read is said.

mod laravel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::process::Process;
use crate::harness::{PATIENCE, START_PATIENCE, plugin};

const CONFIG: &str = r#"<?php
use Chat\Actions\{ChatText, Typing};
return [
    'host' => env('WS_HOST', 'localhost'),
    'port' => env('WS_PORT', 8000),
    'ssl' => env('WS_SSL', false),
    'handler' => \Chat\ChatHandler::class,
    'queue_name' => env('WS_QUEUE', 'chat'),
    'actions' => ['chat_text' => ChatText::class, 'typing' => '\Chat\Actions\Typing', 'a.b' => Typing::class],
    'log' => storage_path('logs/ws.log'),
    'token' => env('WS_TOKEN'),
];
"#;

/// What Laravel's console kernel does for us, in a few lines: config files under their names, and `config()` to ask for them.
const BOOTSTRAP: &str = r#"<?php
namespace {
    function env($name, $default = null) { return $name === 'WS_PORT' ? '9001' : $default; }
    function storage_path($path) { return '/srv/' . $path; }
    function config($key) { return \Application::$config[$key] ?? null; }
    class Application {
        public static $config = [];
        public function make($name) {
            if ($name !== 'Illuminate\Contracts\Console\Kernel') { throw new \Exception("no $name"); }
            return $this;
        }
        public function bootstrap() {
            self::$config = [
                'websocket' => require __DIR__ . '/../config/websocket.php',
                'database.redis' => ['client' => 'phpredis', 'options' => ['prefix' => 'shop_database_'],
                    'default' => ['host' => '10.0.0.9', 'password' => 'wrong one', 'port' => 1],
                    'queue' => ['host' => '10.0.0.7', 'password' => 'pa/ss', 'port' => '6380', 'database' => 2]],
                'queue.connections.redis.connection' => 'queue',
            ];
        }
        public function configurationIsCached() { return false; }
    }
    echo "a line of the bootstrap\n";
    return new Application();
}
"#;

/// A folder like a Laravel application's.
struct App {
    dir: TempDir,
}

impl App {
    fn with(config: &str) -> Self {
        let app = Self { dir: tempfile::tempdir().unwrap() };
        app.put("config/websocket.php", config);
        app
    }

    fn put(&self, file: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn bootstrapped(&self, bootstrap: &str) {
        self.put("vendor/autoload.php", "<?php\n");
        self.put("bootstrap/app.php", bootstrap);
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("plugsocket.toml")
    }

    /// Imports `config/websocket.php` with these arguments.
    fn import(&self, args: &[&str]) -> Said {
        self.import_with(args, &[])
    }

    fn import_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Said {
        let mut command = tool(&[&["config", "import"], args].concat());
        command.current_dir(self.dir.path()).envs(environment.iter().copied());
        Said::of(Process::spawn("plugsocket", command))
    }
}

fn tool(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plugsocket"));
    command.args(args);
    let foreign = |name: &str| ["PLUGSOCKET_", "WS_", "REDIS_"].iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in std::env::vars().filter(|(name, _)| foreign(name)) {
        command.env_remove(name);
    }
    command
}

struct Said {
    code: i32,
    text: String,
}

impl Said {
    fn of(mut process: Process) -> Self {
        let code = process.wait_exit(START_PATIENCE).code().unwrap();
        Self { code, text: process.lines().join("\n") }
    }

    #[track_caller]
    fn is(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}", self.text);
        for words in words {
            assert!(self.text.contains(words), "no {words:?} in: {}", self.text);
        }
        self
    }
}

fn table(path: &Path) -> toml::Table {
    toml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn check(config: &Path) -> Said {
    Said::of(Process::spawn("plugsocket", tool(&["check", "--config", config.to_str().unwrap()])))
}

#[test]
fn a_file_is_evaluated_by_php_with_its_env_and_check_accepts_what_comes_of_it() {
    let app = App::with(CONFIG);
    app.put(
        ".env",
        "# comment\nWS_HOST=\"0.0.0.0\" # all\nexport WS_QUEUE='chat # one'\nNAME=x\nREDIS_PREFIX=${NAME}_db_\nREDIS_PASSWORD=null\nREDIS_HOST=127.0.0.1\nWS_SSL=true\n",
    );
    let said = app.import_with(&["-o", "plugsocket.toml"], &[("WS_PORT", "8100")]);
    said.is(0, &["wrote plugsocket.toml: 3 actions", "`ssl` was true", "plugsocket new chat_handler", "1. ", "websocket:work"]);
    let made = table(&app.out());
    assert_eq!(made["server"]["listen"].as_str(), Some("0.0.0.0:8100"), "the environment comes before .env");
    assert_eq!(made["actions"]["chat_text"]["list"].as_str(), Some("queues:chat # one_in"));
    assert_eq!(
        made["actions"]["chat_text"]["handle"].as_str(),
        Some("Chat\\Actions\\ChatText"),
        "as PHP has it, as the package would push it"
    );
    assert_eq!(made["actions"]["typing"]["handle"].as_str(), Some("\\Chat\\Actions\\Typing"));
    assert!(made["actions"].get("a.b").is_some());
    assert_eq!((made["app"].as_str(), made["php"]["prefix"].as_str()), (Some("chat___one"), Some("x_db_")));
    assert_eq!(made["queue"].as_str(), Some("redis://127.0.0.1:6379"));
    let text = fs::read_to_string(app.out()).unwrap();
    let logs = format!("# log = \"{}", app.dir.path().canonicalize().unwrap().join("storage/logs/ws.log").display());
    assert!(text.contains(&logs), "{text}");

    check(&app.out()).is(1, &["plugsocket.toml: ok, 3 actions", "refused", "chat_handler"]);
    let plugins = app.dir.path().parent().unwrap().join(app.dir.path().file_name().unwrap()).join("plugins");
    fs::create_dir(&plugins).unwrap();
    plugin::install(&plugin::chat(), &plugins, "chat_handler");
    fs::write(app.out(), text.replace("\"../plugins\"", "\"plugins\"")).unwrap();
    check(&app.out()).is(0, &["plugsocket.toml: ok, 3 actions", "chat_handler"]);
}

#[test]
fn the_applications_own_bootstrap_is_believed() {
    let app = App::with(CONFIG);
    app.bootstrapped(BOOTSTRAP);
    app.import(&["-o", "plugsocket.toml"]).is(0, &["php: a line of the bootstrap", "the password of Redis"]);
    let made = table(&app.out());
    assert_eq!(made["server"]["listen"].as_str(), Some("127.0.0.1:9001"));
    assert_eq!(made["queue"].as_str(), Some("redis://:pa%2Fss@10.0.0.7:6380/2"), "of the connection that its queue uses");
    assert_eq!(made["php"]["prefix"].as_str(), Some("shop_database_"));
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(app.out()).unwrap().permissions().mode() & 0o777, 0o600, "there is a password in it");
}

#[test]
fn a_bootstrap_that_fails_is_told_and_done_without() {
    for (bootstrap, words) in [
        ("<?php throw new Exception('no database');", "no database"),
        ("<?php this is no PHP", "syntax error"),
        ("<?php exit(3);", "PHP ended before it had the config"),
        ("<?php while (true) { $all[] = str_repeat('x', 1 << 20); }", "Allowed memory size"),
        ("<?php return null;", "null"),
    ] {
        let app = App::with(CONFIG);
        app.put(".env", "WS_PORT=8200\n");
        app.bootstrapped(bootstrap);
        app.import(&["-o", "plugsocket.toml"]).is(0, &["note: the application in", "does not start", words, "wrote plugsocket.toml"]);
        assert_eq!(table(&app.out())["server"]["listen"].as_str(), Some("127.0.0.1:8200"), "{bootstrap}");
    }
    let app = App::with(CONFIG);
    app.bootstrapped(&BOOTSTRAP.replace("'websocket' =>", "'other' =>"));
    app.import(&[]).is(0, &["the application does not know this config file"]);
}

#[test]
fn standard_input_does_without_php() {
    let websocket = json!({"host": "localhost", "port": 8000, "queue_name": "chat", "handler": "Chat\\ChatHandler", "actions": {"chat_text": "Chat\\Actions\\ChatText"}});
    for (input, code, words) in [
        (
            websocket.to_string() + "\n",
            0,
            vec!["chat_text = { list = \"queues:chat_in\", handle = \"Chat\\\\Actions\\\\ChatText\" }", "written to standard output"],
        ),
        ("null\n".to_owned(), 1, vec!["is null: there is no such config"]),
        (String::new(), 1, vec!["standard input is empty"]),
        ("{\"port\": ".to_owned(), 1, vec!["standard input is not the JSON of the config"]),
        ("x".repeat((1 << 20) + 1), 1, vec!["more than 1024 KiB"]),
        ("\u{1b}[2J".to_owned(), 1, vec!["is not the JSON"]),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), input).unwrap();
        let mut command = tool(&["config", "import", "-", "--php", "no-such-php"]);
        command.env("PATH", "/nowhere");
        let process = Process::spawn_with("plugsocket", command, Stdio::from(fs::File::open(file.path()).unwrap()));
        Said::of(process).is(code, &words);
    }
}

#[test]
fn what_can_not_be_read_is_said() {
    for (config, words) in [
        ("<?php\nreturn [\n    'host' => ,\n];", vec!["config/websocket.php:3: syntax error"]),
        ("<?php\nreturn ['port' => nope()];", vec!["config/websocket.php:2: Call to undefined function nope()"]),
        ("<?php $config = [];", vec!["must return an array, and returns 1"]),
        ("<?php return 'x';", vec!["must return an array, and returns \"x\""]),
        ("<?php return [];", vec!["empty array"]),
        ("<?php return ['port' => 'abc'];", vec!["`port`: must be a number from 1 to 65535, and is \"abc\""]),
        ("<?php return ['port' => NAN];", vec!["`port`", "of PHP's type double"]),
        ("<?php return ['actions' => ['chat' => function () {}]];", vec!["`actions.chat`", "a closure, which no file can hold"]),
        ("<?php return ['actions' => ['A', 'B']];", vec!["`actions`: is a list"]),
        ("<?php return ['actions' => ['register' => 'A']];", vec!["`actions.register`: is answered by the server itself"]),
        ("<?php return ['actions' => [str_repeat('x', 129) => 'A']];", vec!["would be refused; change it in PHP's file", "too long"]),
        ("<?php return ['host' => \"\\xff\"];", vec!["holds what JSON can not", "UTF-8"]),
        ("<?php $a = []; $a['a'] = &$a; return $a;", vec![]),
        ("<?php exit(3);", vec!["PHP ended before it had the config (exit status: 3)"]),
        ("<?php while (true) { echo str_repeat('x', 1 << 20); flush(); ob_flush(); }", vec!["PHP wrote more than 1024 KiB"]),
        ("<?php while (true) { fwrite(STDERR, str_repeat(\"x\\n\", 1 << 20)); }", vec!["PHP wrote more than 1024 KiB", "lines more"]),
    ] {
        let app = App::with(config);
        let said = app.import(&["-o", "plugsocket.toml"]);
        if !words.is_empty() {
            let said = said.is(1, &words);
            assert!(!said.text.contains("panicked"), "{}", said.text);
            assert!(!app.out().exists(), "{config}");
        }
    }
}

#[test]
fn a_config_that_never_returns_is_ended() {
    let app = App::with("<?php file_put_contents(__DIR__ . '/pid', getmypid()); while (true) { usleep(1000); }");
    let started = Instant::now();
    app.import(&["--timeout", "1s"]).is(1, &["PHP was not done after 1s"]);
    assert!(started.elapsed() < Duration::from_secs(20));
    let pid = fs::read_to_string(app.dir.path().join("config/pid")).unwrap();
    let end = Instant::now() + PATIENCE;
    while Path::new("/proc").join(pid.trim()).join("exe").exists() {
        assert!(Instant::now() < end, "PHP still runs");
        std::thread::yield_now();
    }
}

#[test]
fn wrong_use_is_told_and_nothing_is_overwritten() {
    let app = App::with(CONFIG);
    app.import(&["nope.php"]).is(2, &["nope.php is not there", "config/websocket.php"]);
    app.import(&["config"]).is(2, &["is no file"]);
    app.import(&["--php", "no-such-php"]).is(2, &["can't run `no-such-php`", "only PHP can read a PHP file", "tinker"]);
    app.import(&["--force"]).is(2, &["--out"]);
    app.put("plugsocket.toml", "mine");
    app.import(&["-o", "plugsocket.toml"]).is(2, &["is there already, and was left as it is; --force overwrites it"]);
    assert_eq!(fs::read_to_string(app.out()).unwrap(), "mine");
    app.import(&["-o", "plugsocket.toml", "--force", "--handler", "door"]).is(0, &["wrote plugsocket.toml"]);
    assert_eq!(table(&app.out())["server"]["handler"].as_str(), Some("door"));
    app.import(&["--handler", "no name"]).is(2, &["--handler must be a plugin's name"]);
    app.import(&["-o", "no/where.toml"]).is(1, &["can't write no/where.toml"]);
    let left: Vec<_> = fs::read_dir(app.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".new")), "{left:?}");
}

#[test]
fn what_a_config_prints_is_not_its_answer() {
    let app = App::with("<?php echo \"[actions]\\n{\\\"websocket\\\": 1}\\n\"; trigger_error('old'); return ['host' => 'localhost'];");
    let mut command = tool(&["config", "import"]);
    command.current_dir(app.dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(toml::from_str::<toml::Table>(&text).is_ok_and(|table| table["server"]["listen"].as_str() == Some("127.0.0.1:8000")), "{text}");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("php: [actions]") && errors.contains("old"), "{errors}");
}
