<?php
// What the PHP package brings along, as far as an action class sees it, with a loop that takes from the list as its worker does.
// Usage: php worker.php PORT QUEUE_NAME FILE…
namespace JithinJose2\WebSocket\Interfaces {
    interface WebsocketActionInterface
    {
        public function handle($connectionId, $userId, $data, $meta);
    }

    interface WebsocketHandleInterface
    {
        public function connect($data);
        public function disconnect($connectionId, $userId);
        public function loop();
        public function action($connectionId, $userID, $action, $data);
    }
}

namespace {
    /** Sends by the list, with the calls that the package has. */
    final class Sender
    {
        private array $to = [];

        public function __construct(private \Redis $redis, private string $list)
        {
        }

        public function to($id): self
        {
            return $this->at(['connection_id' => $id]);
        }

        public function toUser($id): self
        {
            return $this->at(['user_id' => $id]);
        }

        public function all(): self
        {
            return $this->at(['broadcast' => true]);
        }

        public function send($action, $data): void
        {
            $this->redis->rPush($this->list, json_encode(['to' => $this->to, 'action' => $action, 'data' => $data, 'meta' => ['time' => time()]]));
        }

        private function at(array $to): self
        {
            $this->to = $to;
            return $this;
        }
    }

    function websocket(): Sender
    {
        return new Sender($GLOBALS['redis'], "queues:{$GLOBALS['name']}_out");
    }

    [, $port, $name] = $argv;
    $redis = new \Redis();
    $redis->connect('127.0.0.1', (int) $port);
    foreach (array_slice($argv, 3) as $file) {
        require $file;
    }
    echo "working\n";
    while (true) {
        $popped = $redis->blPop(["queues:{$name}_in"], 1);
        $work = json_decode($popped[1] ?? '', true);
        if (!empty($work['connection_id']) && class_exists($work['handle'])) {
            (new $work['handle']())->handle($work['connection_id'], $work['user_id'], $work['data'], $work['meta']);
        }
    }
}
