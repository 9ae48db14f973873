<?php

declare(strict_types=1);

namespace Plugsocket\Exception;

/** No action, one that is too long, or one that is the server's own. Nothing was sent. */
final class InvalidAction extends WebsocketException
{
}
