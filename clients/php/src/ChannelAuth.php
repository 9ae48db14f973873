<?php

declare(strict_types=1);

namespace Plugsocket;

use Plugsocket\Exception\InvalidAddress;
use Plugsocket\Exception\NotConfigured;
use Plugsocket\Exception\TooLarge;
use Plugsocket\Exception\Unencodable;

/** Signs who may subscribe to private and presence channels; the server's plugin `channels` verifies it with the same secret. */
final class ChannelAuth
{
    /** Seconds in which a signature must be used. */
    public const LIFETIME = 300;
    /** This and the next two are limits of the plugin. */
    public const SECRET_BYTES_MIN = 16;
    public const CHANNEL_BYTES_MAX = 164;
    public const DATA_BYTES_MAX = 4096;
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
        // Without `:` nothing that is signed for one channel reads as something else for another.
        if (strlen($channel) > self::CHANNEL_BYTES_MAX || preg_match('/^[^:\s\p{Z}\p{Cc}]+$/uD', $channel) !== 1) {
            throw new InvalidAddress(sprintf(
                'The name of a channel must be UTF-8 of 1 to %d bytes without spaces, control characters and ":"; it has %d bytes: "%s".',
                self::CHANNEL_BYTES_MAX,
                strlen($channel),
                addcslashes(substr($channel, 0, 40), "\0..\37\177..\377"),
            ));
        }

        return self::GROUP . $channel;
    }

    /**
     * What the client sends with its `subscribe` to a private channel.
     *
     * @param int|null $time The present, in seconds since 1970.
     * @return array{auth: string}
     *
     * @throws InvalidAddress
     */
    public function private(string $connectionId, string $channel, ?int $time = null): array
    {
        self::group($channel);

        return ['auth' => $this->sign("$connectionId:$channel", '', $time)];
    }

    /**
     * What the client sends with its `subscribe` to a presence channel.
     *
     * @param mixed $user What others are told of the user.
     * @param int|null $time The present, in seconds since 1970.
     * @return array{auth: string, channel_data: string}
     *
     * @throws InvalidAddress|TooLarge|Unencodable
     */
    public function presence(string $connectionId, string $channel, int|string $userId, mixed $user, ?int $time = null): array
    {
        self::group($channel);
        $data = Json::encode(['user_id' => $userId, 'user_info' => $user], 'channel_data');
        if (strlen($data) > self::DATA_BYTES_MAX) {
            throw new TooLarge(sprintf(
                'What a presence channel tells of a user has %s bytes, the limit is %s: return less from the callback in routes/channels.php.',
                number_format(strlen($data)),
                number_format(self::DATA_BYTES_MAX),
            ));
        }

        return ['auth' => $this->sign("$connectionId:$channel", ":$data", $time), 'channel_data' => $data];
    }

    private function sign(string $what, string $data, ?int $time): string
    {
        $expires = ($time ?? time()) + self::LIFETIME;

        return "$expires:" . hash_hmac('sha256', "$what:$expires$data", $this->secret);
    }
}
