<?php

declare(strict_types=1);

namespace Plugsocket\Exception;

/** What every error of this package is. Its text says what to do. */
abstract class WebsocketException extends \RuntimeException
{
}
