<?php

declare(strict_types=1);

namespace Plugsocket;

use Plugsocket\Exception\InvalidAddress;
use Plugsocket\Exception\NotConfigured;

/** Signs who may subscribe to private and presence channels; the server's plugin `channels` verifies it with the same secret. */
final class ChannelAuth
{
    /** Seconds in which a signature must be used. */
    public const LIFETIME = 300;
    public const SECRET_BYTES_MIN = 32;
    /** With `channel:` before it, a group's name, of which the server takes 200 bytes (`limits.group_bytes_max`). */
    public const CHANNEL_BYTES_MAX = 192;
    private const GROUP = 'channel:';

    /**
     * @param string $secret What stands in the `secret_file` of the plugin.
     *
     * @throws NotConfigured
     */
    public function __construct(#[\SensitiveParameter] private readonly string $secret)
    {
        if (strlen($secret) < self::SECRET_BYTES_MIN) {
            throw new NotConfigured(sprintf(
                'The secret for private channels must have at least %d bytes; it has %d. Set `secret` (WEBSOCKET_SECRET) to what stands in the `secret_file` of [plugins.channels.config].',
                self::SECRET_BYTES_MIN,
                strlen($secret),
            ));
        }
    }

    /**
     * The group of a channel's subscribers.
     *
     * @param string $channel Its full name, such as `private-orders.1`.
     *
     * @throws InvalidAddress
     */
    public static function group(string $channel): string
    {
        if ($channel === '' || strlen($channel) > self::CHANNEL_BYTES_MAX) {
            throw new InvalidAddress(sprintf('The name of a channel must have 1 to %d bytes; "%s" has %d.', self::CHANNEL_BYTES_MAX, $channel, strlen($channel)));
        }

        return self::GROUP . $channel;
    }

    /**
     * What the client sends with its `subscribe` to a private channel.
     *
     * @param int|null $time The present, in seconds since 1970.
     * @return array{auth: string}
     */
    public function private(string $connectionId, string $channel, ?int $time = null): array
    {
        return ['auth' => $this->sign("$connectionId:$channel", '', $time)];
    }

    /**
     * What the client sends with its `subscribe` to a presence channel.
     *
     * @param mixed $user What others are told of the user.
     * @param int|null $time The present, in seconds since 1970.
     * @return array{auth: string, channel_data: string}
     */
    public function presence(string $connectionId, string $channel, int|string $userId, mixed $user, ?int $time = null): array
    {
        $data = Json::encode(['user_id' => $userId, 'user_info' => $user], 'channel_data');

        return ['auth' => $this->sign("$connectionId:$channel", ":$data", $time), 'channel_data' => $data];
    }

    private function sign(string $what, string $data, ?int $time): string
    {
        $expires = ($time ?? time()) + self::LIFETIME;

        return "$expires:" . hash_hmac('sha256', "$what:$expires$data", $this->secret);
    }
}
