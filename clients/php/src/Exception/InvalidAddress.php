<?php

declare(strict_types=1);

namespace Plugsocket\Exception;

/** Nobody was addressed, or by something that is no address. Nothing was sent. */
final class InvalidAddress extends WebsocketException
{
}
