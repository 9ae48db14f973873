//! The same with the real framework, its own kernel, config repository and `env()`: from the system's packages, or from `composer install` in clients/php.

use std::fs;

use super::{App, CONFIG, table};
use crate::harness::plugin;

const AUTOLOAD: &str = "<?php
error_reporting(E_ALL & ~E_DEPRECATED & ~E_USER_DEPRECATED); // Its code is older than this PHP.
require is_file('VENDOR/autoload.php') ? 'VENDOR/autoload.php' : 'Illuminate/autoload.php';
";
const BOOTSTRAP: &str = r"<?php
$app = new Illuminate\Foundation\Application(dirname(__DIR__));
$app->singleton(Illuminate\Contracts\Console\Kernel::class, Illuminate\Foundation\Console\Kernel::class);
$app->singleton(Illuminate\Contracts\Debug\ExceptionHandler::class, Illuminate\Foundation\Exceptions\Handler::class);
return $app;
";
const APP: &str = "<?php return ['name' => env('APP_NAME'), 'env' => 'local', 'timezone' => 'UTC', 'locale' => 'en', 'providers' => [], 'aliases' => []];";
const DATABASE: &str = r"<?php
use Illuminate\Support\Str;
return ['redis' => [
    'client' => 'phpredis',
    'options' => ['prefix' => env('REDIS_PREFIX', Str::slug(env('APP_NAME'), '_') . '_database_')],
    'default' => ['host' => env('REDIS_HOST'), 'password' => env('REDIS_PASSWORD'), 'port' => env('REDIS_PORT', 6379), 'database' => '0'],
]];
";

#[test]
fn a_real_laravel_application_tells_what_it_has() {
    let app = App::with(CONFIG);
    app.put(".env", "APP_NAME=\"My Shop\"\nREDIS_HOST=10.0.0.7\nREDIS_PASSWORD=null\nWS_HOST=0.0.0.0\nWS_QUEUE=shop\n");
    app.bootstrapped(BOOTSTRAP);
    let autoload = AUTOLOAD.replace("VENDOR", plugin::workspace().join("clients/php/vendor").to_str().unwrap());
    for (file, text) in [("vendor/autoload.php", autoload.as_str()), ("config/app.php", APP), ("config/database.php", DATABASE)] {
        app.put(file, text);
    }
    fs::create_dir_all(app.dir.path().join("bootstrap/cache")).unwrap();
    fs::create_dir_all(app.dir.path().join("storage/logs")).unwrap();
    let said = app.import(&["-o", "plugsocket.toml"]).is(0, &["wrote plugsocket.toml: 3 actions"]);
    assert!(!said.text.contains("note:"), "its own bootstrap has told it: {}", said.text);
    let made = table(&app.out());
    assert_eq!((made["app"].as_str(), made["server"]["listen"].as_str()), (Some("shop"), Some("0.0.0.0:8000")));
    assert_eq!((made["queue"].as_str(), made["php"]["prefix"].as_str()), (Some("redis://10.0.0.7:6379"), Some("my_shop_database_")));

    // A cached config is what the application has, whatever the files say since.
    let cached = "<?php return ['app' => ['name' => 'x', 'timezone' => 'UTC', 'providers' => [], 'aliases' => []], 'websocket' => ['port' => 9999]];";
    app.put("bootstrap/cache/config.php", cached);
    app.import(&["-o", "plugsocket.toml", "--force"]).is(0, &["note: the application's config is cached", "config:cache"]);
    assert_eq!(table(&app.out())["server"]["listen"].as_str(), Some("127.0.0.1:9999"));
}
