<?php

declare(strict_types=1);

namespace Plugsocket;

use Closure;
use Plugsocket\Exception\InvalidAction;
use Plugsocket\Exception\InvalidAddress;
use Plugsocket\Exception\NotConfigured;
use Plugsocket\Exception\Refused;
use Plugsocket\Exception\WebsocketException;
use Plugsocket\Transport\HttpTransport;
use Plugsocket\Transport\Limit;
use Plugsocket\Transport\RedisTransport;
use Plugsocket\Transport\Transport;

/**
 * Sends to the clients of a Plugsocket server, and asks it who is connected.
 *
 * Nothing in here changes: each address makes another sender, so that none is left over from the message before.
 */
final class Websocket
{
    private const ACTION_BYTES_MAX = 128;
    /** The server's own, which it takes from nobody else. */
    private const SYSTEM_ACTIONS = ['register', 'registered', 'accepted', 'error', 'ping', 'pong', 'resume', 'draining', 'expiring'];

    private static self|Closure|null $default = null;

    /** @var array{connection_id?: int|string, user_id?: int|string, group?: string, all?: true, except?: int|string} */
    private array $to = [];

    /**
     * @param HttpApi|null $api For questions.
     * @param bool $flat Whether the clients speak the flat protocol, in which no action is the server's own but `register`.
     */
    public function __construct(
        private readonly Transport $transport,
        private readonly ?HttpApi $api = null,
        private readonly bool $flat = false,
    ) {
    }

    /**
     * Sends through Redis.
     *
     * @param object $redis See {@see RedisTransport}.
     * @param string $queueName The `app` in the plugsocket.toml of the server.
     *
     * @throws NotConfigured
     */
    public static function redis(object $redis, string $queueName = 'plugsocket', ?HttpApi $api = null, int $limit = Limit::DEFAULT, bool $flat = false): self
    {
        return new self(new RedisTransport($redis, $queueName, $limit), $api, $flat);
    }

    /**
     * Sends and asks over HTTP.
     *
     * @param string $url The server's ops listener, such as `http://127.0.0.1:8001`.
     * @param string|null $token Its `ops.token`.
     * @param float $timeout Most seconds for a request.
     *
     * @throws NotConfigured
     */
    public static function http(
        string $url,
        #[\SensitiveParameter] ?string $token = null,
        float $timeout = 5.0,
        int $limit = Limit::DEFAULT,
        bool $flat = false,
    ): self {
        $api = new HttpApi($url, $token, $timeout);

        return new self(new HttpTransport($api, $limit), $api, $flat);
    }

    /** What `websocket()` gives from now on; a callback is called each time. Null forgets it. */
    public static function useDefault(self|Closure|null $websocket): void
    {
        self::$default = $websocket;
    }

    /** @throws NotConfigured */
    public static function default(): self
    {
        $default = self::$default instanceof Closure ? (self::$default)() : self::$default;
        if (! $default instanceof self) {
            throw new NotConfigured('websocket() does not know how to send: call Plugsocket\Websocket::useDefault(Plugsocket\Websocket::redis($redis, \'app\')) first. Under Laravel its service provider does so.');
        }

        return $default;
    }

    /** To the connection with this id. */
    public function to(int|string $connectionId): self
    {
        return $this->with('connection_id', self::id($connectionId, 'to()'));
    }

    /** To all connections of a user. */
    public function toUser(int|string $userId): self
    {
        return $this->with('user_id', self::id($userId, 'toUser()'));
    }

    /** To all connections in a group. */
    public function toGroup(string $name): self
    {
        return $this->with('group', self::id($name, 'toGroup()'));
    }

    /** To all connections. */
    public function all(): self
    {
        return $this->with('all', true);
    }

    /** Not to the connection with this id. */
    public function except(int|string $connectionId): self
    {
        return $this->with('except', self::id($connectionId, 'except()'));
    }

    /**
     * Sends to whom it is addressed, each connection once. An empty array arrives as a list, `(object) []` as an object.
     *
     * @throws WebsocketException
     */
    public function send(string $action, mixed $data = null): void
    {
        $this->transport->send($this->message($action, $data));
    }

    /**
     * Sends to all connections, but for that of `except()`.
     *
     * @throws WebsocketException
     */
    public function broadcast(string $action, mixed $data = null): void
    {
        $this->all()->send($action, $data);
    }

    /**
     * Sends the same to several groups, in this order; nothing when one of the names can't be used.
     *
     * @param array<string, mixed> $data Data by group.
     *
     * @throws WebsocketException
     */
    public function sendToGroups(string $action, array $data): void
    {
        $messages = [];
        foreach ($data as $group => $each) {
            $messages[] = $this->toGroup((string) $group)->message($action, $each);
        }
        $this->transport->send(...$messages);
    }

    /**
     * The connection with this id: `connection_id`, `user_id`, `node`, `groups`; null when there is none.
     *
     * @return array{connection_id: string, user_id: ?string, node: string, groups: list<string>}|null
     *
     * @throws WebsocketException
     */
    public function connection(int|string $id): ?array
    {
        try {
            return $this->api()->get('/v1/connections/' . self::part($id, 'connection()'));
        } catch (Refused $refused) {
            return $refused->errorCode === 'not_found' ? null : throw $refused;
        }
    }

    /**
     * The connections of a user, 1,000 at most.
     *
     * @return list<array{connection_id: string, user_id: ?string, node: string, groups: list<string>}>
     *
     * @throws WebsocketException
     */
    public function connectionsOf(int|string $userId): array
    {
        return $this->api()->get('/v1/users/' . self::part($userId, 'connectionsOf()') . '/connections')['connections'] ?? [];
    }

    /**
     * The connections in a group, 1,000 at most.
     *
     * @return list<array{connection_id: string, user_id: ?string, node: string, groups: list<string>}>
     *
     * @throws WebsocketException
     */
    public function members(string $group): array
    {
        return $this->api()->get('/v1/groups/' . self::part($group, 'members()') . '/connections')['connections'] ?? [];
    }

    /**
     * How many are connected, over all servers.
     *
     * @throws WebsocketException
     */
    public function online(): int
    {
        return (int) ($this->api()->get('/v1/online')['connections'] ?? 0);
    }

    /**
     * Whether a user is connected.
     *
     * @throws WebsocketException
     */
    public function isOnline(int|string $userId): bool
    {
        return $this->connectionsOf($userId) !== [];
    }

    private function with(string $key, int|string|bool $value): self
    {
        $former = $this->to[$key] ?? $value;
        if ((string) $former !== (string) $value) {
            throw new InvalidAddress("One message goes to one `$key` and not both to \"$former\" and \"$value\": send it to each by itself, or put them into a group.");
        }
        $other = clone $this;
        $other->to[$key] = $value;

        return $other;
    }

    private function message(string $action, mixed $data): Message
    {
        if (array_diff_key($this->to, ['except' => true]) === []) {
            throw new InvalidAddress('The message is addressed to nobody: call to($connectionId), toUser($userId), toGroup($name) or all() before send().');
        }
        if ($action === '' || strlen($action) > self::ACTION_BYTES_MAX || preg_match('/^\P{Cc}+$/uD', $action) !== 1) {
            throw new InvalidAction(sprintf(
                'The action must be UTF-8 of 1 to %d bytes without control characters; it has %d bytes: "%s".',
                self::ACTION_BYTES_MAX,
                strlen($action),
                addcslashes(substr($action, 0, 40), "\0..\37\177..\377"),
            ));
        }
        if (in_array($action, $this->flat ? ['register'] : self::SYSTEM_ACTIONS, true)) {
            throw new InvalidAction("The action \"$action\" is the server's own: choose another name.");
        }

        return new Message($this->to, $action, Json::encode($data, 'data'));
    }

    /** @throws NotConfigured */
    private function api(): HttpApi
    {
        return $this->api ?? throw new NotConfigured('Questions are asked over HTTP: set the address of the server\'s ops listener (`url`, such as http://127.0.0.1:8001) and its `token`, or give Websocket::redis() an HttpApi.');
    }

    /** A part of a path. */
    private static function part(int|string $id, string $where): string
    {
        return rawurlencode((string) self::id($id, $where));
    }

    private static function id(int|string $id, string $where): int|string
    {
        if ($id === '' || (is_string($id) && preg_match('//u', $id) !== 1)) {
            throw new InvalidAddress("What is given to $where must not be empty, and must be UTF-8.");
        }

        return $id;
    }
}
