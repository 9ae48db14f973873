<?php

declare(strict_types=1);

namespace Plugsocket\Exception;

/** The message is larger than the limit. Nothing was sent. */
final class TooLarge extends WebsocketException
{
}
