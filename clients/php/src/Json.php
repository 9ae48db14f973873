<?php

declare(strict_types=1);

namespace Plugsocket;

use Plugsocket\Exception\Unencodable;

/** Makes JSON, or says where in a value the thing is that JSON can't say. */
final class Json
{
    private const FLAGS = JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE;
    /** The server takes 512 levels from the list, and the message around the value is one of them. */
    private const DEPTH_MAX = 511;
    /** Values looked at for the culprit; an array that has itself in it twice has no end. */
    private const LOOKED_AT_MAX = 1_000_000;
    /** Parts of a path that are told. */
    private const PATH_PARTS_MAX = 12;

    /** @var array<int, true> The objects we are in. */
    private array $within = [];
    private int $lookedAt = 0;

    private function __construct()
    {
    }

    /**
     * @param string $name What the value is called in an error's text.
     *
     * @throws Unencodable
     */
    public static function encode(mixed $value, string $name): string
    {
        try {
            return json_encode($value, self::FLAGS, self::DEPTH_MAX);
        } catch (\JsonException $error) {
            $found = (new self())->culprit($value, [$name]);
            [$path, $reason] = $found ?? [[$name], lcfirst($error->getMessage())];
            throw new Unencodable(self::text($path) . " can't be sent: " . $reason, 0, $error);
        } catch (\Throwable $error) {
            throw new Unencodable("$name can't be sent: its jsonSerialize() failed: " . $error->getMessage(), 0, $error);
        }
    }

    /**
     * The first thing that JSON can't say.
     *
     * @param list<string> $path
     * @return array{list<string>, string}|null
     */
    private function culprit(mixed $value, array $path): ?array
    {
        if (++$this->lookedAt > self::LOOKED_AT_MAX) {
            return null;
        }
        if (count($path) > self::DEPTH_MAX) {
            return [$path, 'it is nested deeper than ' . self::DEPTH_MAX . ' levels, or has itself in it'];
        }
        $reason = match (true) {
            is_string($value) && ! self::isUtf8($value) => 'it is not UTF-8. Convert text with mb_convert_encoding(), send bytes as base64_encode() makes them',
            is_float($value) && ! is_finite($value) => 'it is ' . $value . ', which JSON has no number for. Send null instead',
            is_resource($value), gettype($value) === 'resource (closed)' => 'it is a resource. Send what was read from it',
            $value instanceof \UnitEnum && ! $value instanceof \BackedEnum && ! $value instanceof \JsonSerializable => 'it is an enum without values. Send its name',
            default => null,
        };
        if ($reason !== null) {
            return [$path, $reason];
        }
        if (is_array($value)) {
            return $this->culpritAmong($value, $path, array_is_list($value));
        }

        return is_object($value) && ! $value instanceof \BackedEnum ? $this->culpritIn($value, $path) : null;
    }

    /**
     * @param list<string> $path
     * @return array{list<string>, string}|null
     */
    private function culpritIn(object $value, array $path): ?array
    {
        $id = spl_object_id($value);
        if (isset($this->within[$id])) {
            return [$path, 'it has itself in it. Send the ids of what it belongs to, not the objects'];
        }
        $this->within[$id] = true;
        try {
            if ($value instanceof \JsonSerializable) {
                $inner = $value->jsonSerialize();

                return $inner === $value ? $this->culpritAmong(get_object_vars($value), $path, false) : $this->culprit($inner, $path);
            }

            return $this->culpritAmong(get_object_vars($value), $path, false);
        } finally {
            unset($this->within[$id]);
        }
    }

    /**
     * @param array<mixed> $values
     * @param list<string> $path
     * @return array{list<string>, string}|null
     */
    private function culpritAmong(array $values, array $path, bool $isList): ?array
    {
        foreach ($values as $key => $value) {
            $key = (string) $key;
            if (! self::isUtf8($key)) {
                return [$path, 'it has a key that is not UTF-8 (' . bin2hex(substr($key, 0, 16)) . ' in hexadecimal)'];
            }
            $isName = preg_match('/^[A-Za-z_][A-Za-z0-9_]*$/', $key) === 1;
            $part = match (true) {
                $isList => "[$key]",
                $isName => ".$key",
                default => '["' . addcslashes($key, "\0..\37\"\\\177") . '"]',
            };
            if ($found = $this->culprit($value, [...$path, $part])) {
                return $found;
            }
        }

        return null;
    }

    private static function isUtf8(string $text): bool
    {
        return preg_match('//u', $text) === 1;
    }

    /** @param list<string> $path */
    private static function text(array $path): string
    {
        $told = array_slice($path, 0, self::PATH_PARTS_MAX);

        return implode('', $told) . (count($told) < count($path) ? '…' : '');
    }
}
