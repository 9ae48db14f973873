<?php

declare(strict_types=1);

namespace Plugsocket\Exception;

/** The server answered, and refused. Nothing was sent, unless `$errorCode` is `timeout`. */
final class Refused extends WebsocketException
{
    /**
     * @param int $status The HTTP status.
     * @param string $errorCode The server's code, such as `unauthorized`, `bad_request` or `busy`; empty when something else answered.
     */
    public function __construct(string $message, public readonly int $status, public readonly string $errorCode)
    {
        parent::__construct($message, $status);
    }
}
