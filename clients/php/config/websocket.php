<?php

// Of the PHP package's keys only `queue_name` is used in PHP. host, port, ssl, handler and actions are what the server is told in its
// plugsocket.toml; they stay here for what reads them, such as views and `plugsocket config import`.

return [

    // Where browsers connect to.
    'host' => env('WEBSOCKET_HOST', 'localhost'),
    'port' => env('WEBSOCKET_PORT', '8000'),

    // Whether they connect by wss://.
    'ssl' => env('WEBSOCKET_SSL', false),

    // Class of the handler, and of each action: 'action' => '\Chat\Actions\Text'.
    'handler' => '',
    'actions' => [],

    // The server's `app`: messages go to the Redis list queues:<queue_name>_out.
    'queue_name' => env('WEBSOCKET_QUEUE_NAME', 'plugsocket'),

    // How messages are sent: 'redis' or 'http'. Questions (online(), members() …) are always asked over HTTP.
    'transport' => env('WEBSOCKET_TRANSPORT', 'redis'),

    // Connection of config/database.php for Redis. Its prefix must be the server's `[php] prefix`.
    'connection' => env('WEBSOCKET_REDIS_CONNECTION', 'default'),

    // The server's ops listener (`ops.listen`), and its `ops.token`.
    'url' => env('WEBSOCKET_URL', 'http://127.0.0.1:8001'),
    'token' => env('WEBSOCKET_TOKEN'),

    // Most seconds for a request over HTTP.
    'timeout' => env('WEBSOCKET_TIMEOUT', 5),

    // Most bytes of a message; the server's limits are `[php] item_max`, `ops.body_max` and `limits.frame_out_max`.
    'limit' => env('WEBSOCKET_LIMIT', 1048576),

    // What the clients speak: 'envelope', or 'flat' as with the PHP package (`server.protocol`).
    'protocol' => env('WEBSOCKET_PROTOCOL', 'envelope'),

    // For the broadcasting driver: signs who may subscribe to private and presence channels; the same as in the `secret_file` of the
    // server's plugin `channels`, for example what this prints: php -r 'echo bin2hex(random_bytes(32));'
    'secret' => env('WEBSOCKET_SECRET'),

];
