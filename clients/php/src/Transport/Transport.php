<?php

declare(strict_types=1);

namespace Plugsocket\Transport;

use Plugsocket\Exception\WebsocketException;
use Plugsocket\Message;

/** A way to the server. */
interface Transport
{
    /**
     * Sends messages, in this order. Each is measured before the first is sent.
     *
     * @throws WebsocketException
     */
    public function send(Message ...$messages): void;
}
