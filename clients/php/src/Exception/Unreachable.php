<?php

declare(strict_types=1);

namespace Plugsocket\Exception;

/** Redis or the server can't be reached, or answered with an error. The text says when the message may have been sent all the same. */
final class Unreachable extends WebsocketException
{
}
