<?php
// Runs a block of the guide with what composer and Laravel would bring: the classes of clients/php, and a default sender.
// Usage: php sender.php CLIENTS_PHP PORT OPS_URL CONNECTION_ID BLOCK
[, $folder, $port, $url, $connectionId, $block] = $argv;
spl_autoload_register(function (string $class) use ($folder): void {
    $file = $folder . '/src/' . str_replace('\\', '/', substr($class, strlen('Plugsocket\\'))) . '.php';
    if (str_starts_with($class, 'Plugsocket\\') && is_file($file)) {
        require $file;
    }
});
require $folder . '/src/helpers.php';
$redis = new Redis();
$redis->connect('127.0.0.1', (int) $port);
Plugsocket\Websocket::useDefault(Plugsocket\Websocket::redis($redis, 'chat', new Plugsocket\HttpApi($url), flat: true));
require $block;
