<?php

declare(strict_types=1);

namespace Plugsocket\Transport;

use Plugsocket\Exception\TooLarge;

/** The largest message that the server takes. */
final class Limit
{
    /** The server's defaults: `[php] item_max`, `ops.body_max` and `limits.frame_out_max`. */
    public const DEFAULT = 1_048_576;

    /** @throws TooLarge */
    public static function check(string $message, int $limit, string $key): void
    {
        if (strlen($message) > $limit) {
            throw new TooLarge(sprintf(
                'The message has %s bytes, the limit is %s. Send less, or a link to it; or raise the limit here (`limit`) and at the server (`%s`, `limits.frame_out_max`).',
                number_format(strlen($message)),
                number_format($limit),
                $key,
            ));
        }
    }
}
