<?php
// Pushes numbered items as modern Laravel does: each by a script that pushes to the list and to its `:notify`, in one step.
// Usage: php push.php PORT LIST ITEMS ADDRESSES (a JSON array of what `to` is; item n goes to address n modulo their number)
[, $port, $list, $items, $addresses] = $argv;
$addresses = json_decode($addresses, true);
$redis = new Redis();
$redis->connect('127.0.0.1', (int) $port);
$push = "redis.call('rpush', KEYS[1], ARGV[1]) redis.call('rpush', KEYS[2], 1)";
$sent = array_fill(0, count($addresses), 0);
for ($item = 0; $item < (int) $items; $item++) {
    $index = $item % count($addresses);
    $data = ['n' => $sent[$index]++, 'url' => 'https://example.org/ä'];
    $json = json_encode(['to' => $addresses[$index], 'action' => 'item', 'data' => $data, 'meta' => ['time' => time()]]);
    $redis->eval($push, [$list, "$list:notify", $json], 2);
}
echo "pushed $items, $list:notify had ", $redis->lLen("$list:notify"), "\n";
