<?php

declare(strict_types=1);

namespace Plugsocket\Exception;

/** A setting is missing or can't be used. Nothing was sent. */
final class NotConfigured extends WebsocketException
{
}
