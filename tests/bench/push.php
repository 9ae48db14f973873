<?php
// Pushes one item for each line it is told, and says when it began, in nanoseconds of the system's monotonic clock.
// Usage: php push.php SOCKET LIST CONNECTION_ID ... (a line is the index of one of them)
[, $socket, $list] = $argv;
$redis = new Redis();
$redis->connect($socket);
$data = ['text' => str_repeat('x', 80)];
echo "ready\n";
while (($line = fgets(STDIN)) !== false) {
    $to = ['connection_id' => $argv[3 + (int) $line]];
    $began = hrtime(true);
    $redis->rPush($list, json_encode(['to' => $to, 'action' => 'chat_text', 'data' => $data, 'meta' => ['time' => time()]]));
    echo $began, "\n";
}
