<?php
// Pushes what PHP applications really push, good and bad, in a known order; the action names the case.
// Usage: php push.php PORT LIST CONNECTION_ID (one of user 7's)
[, $port, $list, $connection] = $argv;
$redis = new Redis();
$redis->connect('127.0.0.1', (int) $port);
$raw = fn($item) => $redis->rPush($list, $item);
$push = fn($to, $action, $data = null, $flags = 0, $more = []) =>
    $raw(json_encode(['to' => $to, 'action' => $action, 'data' => $data, 'meta' => ['time' => time()]] + $more, $flags));
$seven = ['user_id' => 7];

// How data is written.
$push($seven, 'slashes', ['url' => 'https://example.org/']);
$push($seven, 'escapes', ['text' => "é😀\0\u{2028}"]);
$push($seven, 'plain', ['text' => 'é😀/'], JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE);
$push($seven, 'pretty', ['text' => "<&'\">"], JSON_PRETTY_PRINT | JSON_HEX_TAG | JSON_HEX_AMP | JSON_HEX_APOS | JSON_HEX_QUOT);
$push($seven, 'empty_list', []);
$push($seven, 'empty_object', new stdClass());
$push($seven, 'nothing', null);
$push($seven, 'numbers', [1.0, 0.1, PHP_INT_MAX, -0.0], JSON_PRESERVE_ZERO_FRACTION);
$push($seven, 'numeric', ['7', '1e3'], JSON_NUMERIC_CHECK);
$push($seven, 'substituted', "a\xFF", JSON_INVALID_UTF8_SUBSTITUTE);
$push($seven, 'partial', ["a\xFF", 1], JSON_PARTIAL_OUTPUT_ON_ERROR);
$push($seven, 'long', str_repeat('ä', 100000));
// Whom it is for.
$push(['user_id' => '7'], 'text_id');
$push(['user_id' => 7.0], 'float_id', null, JSON_PRESERVE_ZERO_FRACTION);
$push(['user_id' => 14 / 2], 'calculated_id');
$push(['user_id' => -5], 'negative_id');
$push(['user_id' => 9007199254740993], 'large_id', ['user_id' => 9007199254740992]);
$raw(json_encode(['data' => ['user_id' => 9007199254740992], 'to' => ['user_id' => 9007199254740993], 'action' => 'large_id_behind']));
$push(['user_id' => 7, 'connection_id' => $connection, 'group' => null], 'several');
$push(['broadcast' => '0', 'user_id' => 7], 'not_to_all');
$push(['broadcast' => true, 'user_id' => 7], 'to_all');
$push(['broadcast' => 1, 'except' => $connection], 'except');
$push(['user_id' => 7, 'connection_id' => $connection, 'except' => $connection], 'except_one_of_two');
$push(['user_id' => 7, 'except' => ''], 'except_nobody');
$push(['user_id' => 7, 'colour' => 'red'], 'unknown_keys', null, 0, ['to_user' => -5, 'except' => $connection]);
// What can't be sent.
$push($seven, 'invalid', "a\xFF");
$push($seven, 'infinite', INF);
$push($seven, 'two_megabytes', str_repeat('x', 2 << 20));
$push(['user_id' => 7.5], 'half_an_id');
$push(['user_id' => true], 'true_id');
$push(['connection_id' => ['id' => 7]], 'object_id');
$push(['broadcast' => true, 'except' => [$connection]], 'except_list');
$push(['broadcast' => '0'], 'falsy');
$push([], 'empty_to');
$push('everybody', 'text_to');
$push(['user' => 7], 'misspelt');
$push($seven, null);
$push($seven, '');
$raw(serialize(['to' => $seven, 'action' => 'serialized']));
$raw(json_encode(['uuid' => 'x', 'job' => 'Illuminate\Queue\CallQueuedHandler@call', 'data' => ['command' => 'O:8:"App\Jobs"']]));
$push(['broadcast' => true], 'end');
echo "pushed\n";
