<?php

declare(strict_types=1);

namespace Plugsocket\Transport;

use Plugsocket\Exception\NotConfigured;
use Plugsocket\Exception\Unreachable;
use Plugsocket\Message;

/** Pushes messages to the list that the server reads, in the shape of the PHP package `jithinjose2/websocket`. */
final class RedisTransport implements Transport
{
    private readonly string $list;

    /**
     * @param object $redis A `\Redis`, a `Predis\ClientInterface`, a Redis connection of Laravel's, or a callback that gives one of these
     *     each time something is sent. The prefix that it puts before keys must be the server's `[php] prefix`.
     * @param string $queueName The server's `app`: messages go to `queues:<queue_name>_out`.
     * @param int $limit Most bytes of a message.
     *
     * @throws NotConfigured
     */
    public function __construct(private readonly object $redis, string $queueName, private readonly int $limit = Limit::DEFAULT)
    {
        if ($queueName === '') {
            throw new NotConfigured('There is no queue name: set `queue_name` to the `app` in the plugsocket.toml of the server.');
        }
        if (! is_callable($redis)) {
            self::known($redis);
        }
        $this->list = "queues:{$queueName}_out";
    }

    public function send(Message ...$messages): void
    {
        if ($messages === []) {
            return;
        }
        $items = array_map($this->item(...), array_values($messages));
        $redis = is_callable($this->redis) ? self::reached($this->redis) : $this->redis;
        $this->push($redis, $items);
    }

    private function item(Message $message): string
    {
        $to = $message->to;
        if (isset($to['all'])) {
            unset($to['all']);
            $to['broadcast'] = true;
        }
        $item = $message->json($to, ',"meta":{"time":' . time() . '}');
        Limit::check($item, $this->limit, '[php] item_max');

        return $item;
    }

    /** @param list<string> $items */
    private function push(object $redis, array $items): void
    {
        $connection = null;
        if (is_a($redis, 'Illuminate\Redis\Connections\Connection')) {
            // Its own way of running a command: it tells listeners, and connects anew after an error.
            [$connection, $redis] = [$redis, $redis->client()];
        }
        self::known($redis);
        $run = static fn (string $command, array $arguments) => $connection === null
            ? $redis->{$command}(...$arguments)
            : $connection->command($command, $arguments);
        try {
            if ($redis instanceof \Redis) {
                // A plain `rPush` would wrap the item by the serializer or the compression that is set for the application's values.
                $key = (string) $redis->getOption(\Redis::OPT_PREFIX) . $this->list;
                $redis->clearLastError();
                $answer = $run('rawCommand', ['RPUSH', $key, ...$items]);
                if ($answer === false) {
                    throw new Unreachable(self::failed($redis->getLastError() ?? 'no reason given'));
                }
            } else {
                $answer = $run('rpush', [$this->list, $items]);
                if (is_a($answer, 'Predis\Response\ErrorInterface')) {
                    throw new Unreachable(self::failed($answer->getMessage()));
                }
            }
        } catch (Unreachable $error) {
            throw $error;
        } catch (\Throwable $error) {
            throw new Unreachable(self::failed($error->getMessage()), 0, $error);
        }
    }

    private static function reached(callable $redis): object
    {
        try {
            $client = $redis();
        } catch (\Throwable $error) {
            throw new Unreachable("Redis can't be reached: " . $error->getMessage() . '. Nothing was sent.', 0, $error);
        }
        if (! is_object($client)) {
            throw new NotConfigured('The callback for Redis must give a client; it gave ' . get_debug_type($client) . '.');
        }

        return $client;
    }

    private static function known(object $redis): void
    {
        $isKnown = $redis instanceof \Redis || is_a($redis, 'Predis\ClientInterface') || is_a($redis, 'Illuminate\Redis\Connections\Connection');
        if (! $isKnown) {
            throw new NotConfigured(sprintf(
                'Messages can be sent through a \Redis, a Predis\Client, or a Redis connection of Laravel\'s, but not through %s.%s',
                get_debug_type($redis),
                $redis instanceof \RedisCluster ? ' The server does not speak to Redis Cluster.' : '',
            ));
        }
    }

    private static function failed(string $reason): string
    {
        $hint = match (true) {
            str_contains($reason, 'WRONGTYPE') => ' The key has another type: is `queue_name` the name of an application of ours?',
            str_contains($reason, 'OOM') => ' Redis is full; see plugsocket queue status.',
            str_contains($reason, 'NOAUTH'), str_contains($reason, 'WRONGPASS'), str_contains($reason, 'NOPERM') => ' Check the user and password for Redis.',
            default => ' If the connection broke only now, the message may have been sent.',
        };

        return 'Redis did not take the message: ' . rtrim($reason, '.') . '.' . $hint;
    }
}
