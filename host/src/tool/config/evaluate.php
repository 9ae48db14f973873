<?php
// What a PHP config file holds, as one JSON document behind a mark. Arguments: the file, the application's folder, the mark, and
// "application" (its own bootstrap tells) or "file" (the file alone is evaluated). Any PHP from 5.6 on.

/** Only what JSON can hold; of anything else its name. */
function plugsocket_plain($value, $depth)
{
    if (is_object($value)) {
        return array('__php' => get_class($value));
    }
    if (is_resource($value) || (is_float($value) && !is_finite($value)) || $depth === 0) {
        return array('__php' => $depth === 0 ? 'arrays nested too deep' : gettype($value));
    }
    if (!is_array($value)) {
        return $value;
    }
    $plain = array();
    foreach ($value as $key => $member) {
        $plain[$key] = plugsocket_plain($member, $depth - 1);
    }
    return $plain;
}

function plugsocket_tell($mark, $found)
{
    // What the config printed is not for us, but somebody may want to read it.
    for ($noise = ''; ob_get_level() > 0;) {
        $noise = ob_get_clean() . $noise;
    }
    fwrite(STDERR, $noise);
    $json = json_encode($found, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE);
    if ($json === false) {
        $json = json_encode(array('error' => 'holds what JSON can not: ' . json_last_error_msg()));
    }
    fwrite(STDOUT, "\n" . $mark . $json . "\n");
    exit(0);
}

/** The variables of a .env file. What the environment has comes before them, as in Laravel. */
function plugsocket_dotenv($path)
{
    $known = array();
    foreach (is_readable($path) ? file($path) : array() as $line) {
        if (!preg_match('/^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*)$/s', rtrim($line), $parts)) {
            continue;
        }
        $text = $parts[2];
        $is_raw = false;
        if (preg_match('/^"((?:[^"\\\\]|\\\\.)*)"/s', $text, $quoted)) {
            $text = strtr($quoted[1], array('\\\\' => '\\', '\\"' => '"', '\\n' => "\n", '\\r' => "\r", '\\t' => "\t"));
        } elseif (preg_match("/^'([^']*)'/", $text, $quoted)) {
            $text = $quoted[1];
            $is_raw = true;
        } else {
            $text = rtrim(preg_replace('/(^|\s)#.*$/', '', $text));
        }
        if (!$is_raw) {
            $text = preg_replace_callback('/\$\{([A-Za-z0-9_.]+)\}/', function ($name) use (&$known) {
                $outside = getenv($name[1]);
                return $outside !== false ? $outside : (isset($known[$name[1]]) ? $known[$name[1]] : $name[0]);
            }, $text);
        }
        $known[$parts[1]] = $text;
    }
    return $known;
}

function plugsocket_variable($name)
{
    $outside = getenv($name);
    if ($outside !== false) {
        return $outside;
    }
    return isset($GLOBALS['plugsocket_env'][$name]) ? $GLOBALS['plugsocket_env'][$name] : null;
}

/** What Laravel's helpers do in config files, for a file that is evaluated without Laravel. */
function plugsocket_helpers($root)
{
    $GLOBALS['plugsocket_root'] = $root;
    $GLOBALS['plugsocket_env'] = plugsocket_dotenv($root . '/.env');
    if (!function_exists('env')) {
        function env($name, $default = null)
        {
            $text = plugsocket_variable($name);
            if ($text === null) {
                return $default instanceof Closure ? $default() : $default;
            }
            $words = array('true' => true, 'false' => false, 'null' => null, 'empty' => '');
            $word = strtolower(preg_match('/^\((.*)\)$/', $text, $inner) ? $inner[1] : $text);
            if (array_key_exists($word, $words)) {
                return $words[$word];
            }
            return preg_match('/\A([\'"])(.*)\1\z/', $text, $quoted) ? $quoted[2] : $text;
        }
        function plugsocket_path($folder, $path)
        {
            return $GLOBALS['plugsocket_root'] . $folder . ($path === '' ? '' : '/' . ltrim($path, '/'));
        }
        function base_path($path = '') { return plugsocket_path('', $path); }
        function app_path($path = '') { return plugsocket_path('/app', $path); }
        function config_path($path = '') { return plugsocket_path('/config', $path); }
        function database_path($path = '') { return plugsocket_path('/database', $path); }
        function public_path($path = '') { return plugsocket_path('/public', $path); }
        function resource_path($path = '') { return plugsocket_path('/resources', $path); }
        function storage_path($path = '') { return plugsocket_path('/storage', $path); }
    }
}

/** Laravel's own names in .env, for want of config/database.php, which needs Laravel. */
function plugsocket_redis_variables()
{
    $names = array('url' => 'REDIS_URL', 'host' => 'REDIS_HOST', 'port' => 'REDIS_PORT', 'username' => 'REDIS_USERNAME',
        'password' => 'REDIS_PASSWORD', 'database' => 'REDIS_DB', 'scheme' => 'REDIS_SCHEME');
    $connection = array();
    foreach ($names as $key => $name) {
        $value = env($name);
        if ($value !== null) {
            $connection[$key] = $value;
        }
    }
    $prefix = env('REDIS_PREFIX');
    if (count($connection) === 0 && $prefix === null) {
        return null;
    }
    return array('options' => $prefix === null ? array() : array('prefix' => $prefix), 'default' => $connection);
}

function plugsocket_main($file, $root, $mark, $mode)
{
    ob_start();
    $notes = array();
    $connection = null;
    try {
        if ($mode === 'application') {
            require $root . '/vendor/autoload.php';
            $application = require $root . '/bootstrap/app.php';
            $application->make('Illuminate\Contracts\Console\Kernel')->bootstrap();
            $websocket = config(basename($file, '.php'));
            $redis = config('database.redis');
            $connection = config('queue.connections.redis.connection');
            if (method_exists($application, 'configurationIsCached') && $application->configurationIsCached()) {
                $notes[] = 'the application\'s config is cached: after an edit run `php artisan config:cache` before this';
            }
        } else {
            plugsocket_helpers($root);
            $websocket = require $file;
            $redis = plugsocket_redis_variables();
        }
    } catch (Throwable $error) {
        plugsocket_tell($mark, array('error' => $error->getMessage(), 'file' => $error->getFile(), 'line' => $error->getLine()));
    } catch (Exception $error) { // PHP 5
        plugsocket_tell($mark, array('error' => $error->getMessage(), 'file' => $error->getFile(), 'line' => $error->getLine()));
    }
    plugsocket_tell($mark, array(
        'websocket' => plugsocket_plain($websocket, 16),
        'redis' => plugsocket_plain($redis, 16),
        'connection' => plugsocket_plain($connection, 1),
        'notes' => $notes,
    ));
}

plugsocket_main($argv[1], $argv[2], $argv[3], $argv[4]);
