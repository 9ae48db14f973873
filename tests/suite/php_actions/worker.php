<?php
// Takes messages off a list as the PHP package's `websocket:work` does, and answers by the list that PHP sends by.
// Usage: php worker.php PORT IN_LIST OUT_LIST [PREFIX]
namespace Chat\Actions {
    /** What actions have in common. */
    abstract class Action
    {
        public static \Redis $redis;
        public static string $out;

        abstract public function handle($connectionId, $userId, $data, $meta);

        protected function send(array $to, string $action, $data): void
        {
            self::$redis->rPush(self::$out, json_encode(['to' => $to, 'action' => $action, 'data' => $data, 'meta' => ['time' => time()]]));
        }
    }

    /** Answers what it was given, and of which types it is in PHP. */
    class Legacy extends Action
    {
        public function handle($connectionId, $userId, $data, $meta)
        {
            $types = [gettype($connectionId), gettype($userId), gettype($data), gettype($meta['time'])];
            $answer = ['user' => $userId, 'types' => $types, 'got' => $data, 'age' => time() - $meta['time']];
            $this->send(['connection_id' => $connectionId], 'legacy', $answer);
        }
    }

    /** Answers how long the data is as JSON, for what is nested too deep for the tests' own reader. */
    class Length extends Action
    {
        public function handle($connectionId, $userId, $data, $meta)
        {
            $this->send(['connection_id' => $connectionId], 'length', strlen(json_encode($data['data'])));
        }
    }

    /** Ends the worker as `kill -9` does, before it has answered. */
    class Crash extends Action
    {
        public function handle($connectionId, $userId, $data, $meta)
        {
            posix_kill(getmypid(), SIGKILL);
        }
    }
}

namespace {
    [, $port, $in, $out] = $argv;
    $redis = new \Redis();
    $redis->connect('127.0.0.1', (int) $port);
    $redis->setOption(\Redis::OPT_PREFIX, $argv[4] ?? '');
    \Chat\Actions\Action::$redis = $redis;
    \Chat\Actions\Action::$out = $out;
    echo "taking from $in\n";
    while (true) {
        $popped = $redis->blPop([$in], 1);
        if (empty($popped[1])) {
            continue;
        }
        $work = json_decode($popped[1], true);
        if (empty($work['connection_id']) || !is_string($work['handle'] ?? null) || !class_exists($work['handle'])) {
            echo 'ignored: ', json_last_error_msg(), ': ', substr($popped[1], 0, 80), "\n";
            continue;
        }
        $handle = new $work['handle']();
        $handle->handle($work['connection_id'], $work['user_id'], $work['data'], $work['meta']);
    }
}
